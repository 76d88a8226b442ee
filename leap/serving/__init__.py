"""A planner as a service: one model behind OpenAI's chat protocol, plans that are checked, and a page to try it on."""
