"""Semantic wishes: property (see `leap.tabletop.catalogue`) -> what somebody says who wants an object with it.

A wish is one or more whole sentences; it never names the object. A request with "the right drink" follows it.
"""

REQUESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "drink": {
        "soft_drink": (
            "I've been on my feet all day and [would love|fancy] something fizzy, but no alcohol.",
            "My burger is missing its classic [sweet and fizzy|sweet, bubbly] companion.",
            "I have to stay awake [tonight|for the exam] and dislike coffee, so bubbles, sugar and caffeine must do.",
            "I still have to drive [home|tonight], but something [sweet and bubbly|with bubbles] would be lovely.",
        ),
        "from_barley": (
            "The match is about to start, and I feel like something cold and hoppy.",
            "I've just [mown the lawn|painted the fence] and fancy something malty with a head of foam.",
            "I'd like to pretend that I'm sitting in a Bavarian garden with a big mug.",
        ),
        "from_grapes": (
            "We're having [steak|a cheese board|roast lamb] by candlelight and want a good vintage with it.",
            "I'd like to toast our anniversary with something from a vineyard.",
            "I've polished the long-stemmed glasses and found the corkscrew.",
        ),
        "from_cows": (
            "My [cereal is|cornflakes are] still dry.",
            "The doctor says that I need more calcium [for my bones|in my diet].",
            "I'd like to turn my espresso into a [latte|flat white].",
            "I'm making [pancake batter|hot cocoa] for the kids and need something [white and creamy|from the dairy].",
        ),
        "vitamin_c": (
            "I feel a cold coming on and could do with [a lot of|plenty of] vitamin C.",
            "My breakfast isn't complete without something freshly squeezed.",
            "I'd love something fruity [to drink|with my breakfast], but without any alcohol.",
        ),
        "no_sugar": (
            "I've just finished a [long run|marathon] and want nothing sweet, only to [rehydrate|quench my thirst].",
            "I'm on a strict diet: no sugar, no fat, no caffeine and no alcohol.",
            "I have to swallow a pill and should take it with something plain.",
        ),
    },
    "fruit": {
        "monkey_favourite": (
            "The [chimpanzee|gorilla|monkey] has been good and deserves its favourite treat.",
            "I'm making a split with ice cream and chocolate sauce, and only the fruit is missing.",
            "I want to bake sweet bread from a fruit with a long, curved skin.",
        ),
        "in_legends": (
            "I'd like to bake the classic American pie with [cinnamon|a lattice crust].",
            "I want to bring my teacher the traditional gift.",
            "I'd like to stay healthy and keep the doctor away, as the old rhyme [says|has it].",
            "I'm [dressing up as|playing] Snow White, and the wicked queen needs her bait.",
        ),
        "names_a_colour": (
            "I want to cook a few jars of marmalade.",
            "My recipe for roast duck calls for a sweet citrus fruit.",
            "I'd love a glass of what is squeezed fresh at every breakfast buffet.",
        ),
        "sour": (
            "My [tea|fish|fried fish] is missing a squeeze of something sour.",
            "Life has been sour to me, so I'll follow the proverb and make a summer drink out of it.",
            "I want to bake a pie with meringue and a very sour filling.",
        ),
        "biggest_fruit": (
            "There are ten of us at the picnic, and one fruit has to be enough for everybody.",
            "It's a hot day at the beach, and we want to [share|cut up] big, juicy slices.",
            "We're going to hold a seed-spitting contest again [this summer|in the garden].",
        ),
        "makes_wine": (
            "I'd like something small and sweet that I can pop into my mouth one by one.",
            "The cheese board needs [something sweet|its fruity partner] from the vine.",
            "I feel like a Roman emperor on his couch, being fed little fruits by hand.",
        ),
        "bulb_shaped": (
            "I'm making the French dessert called Belle Hélène.",
            "My drawing class needs a fruit that is [slim|narrow] at the top and [wide|round] at the bottom.",
            "I'm singing about the partridge on the first day of Christmas and want the fruit from its tree.",
        ),
    },
    "toy": {
        "runs_on_rails": (
            "We've laid a [long|winding] track [through|across] the living room, and nothing runs on it yet.",
            "My son wants to play [stationmaster|conductor] this afternoon.",
            "The little station has been waiting for an arrival all day.",
        ),
        "driven_on_roads": (
            "My nephew wants to be a racing driver [one day|when he grows up].",
            "We've built a [garage|petrol station] from bricks, and it has no customers yet.",
            "My daughter wants to play traffic jam on the motorway that she has drawn.",
        ),
        "bath": (
            "It's bath time, and my [son|daughter] wants some company among the bubbles.",
            "The tub is full, and we're missing something that floats and quacks.",
            "Hair washing is only bearable with a yellow friend in the tub.",
        ),
        "cuddly": (
            "My little [girl|boy|one] can't fall asleep without something soft to hug.",
            "The baby had a bad dream and wants to [hold|cuddle] something furry.",
            "My niece wants a fluffy guest for her dolls' tea party.",
        ),
        "kicked": (
            "The [kids|children|neighbours' kids] want to play football [outside|in the yard].",
            "My dog loves to fetch something round.",
            "We've got two teams and a goal, but nothing to shoot with.",
        ),
        "spins": (
            "I'd like to show my [class|pupils] how a gyroscope keeps its balance.",
            "My son wants to twirl something until it gets tired and falls over.",
            "Grandpa wants to see something whirl across the floor, as in the old days.",
        ),
    },
    "book": {
        "red": (
            "I'm decorating [the shop window|a shelf] for Valentine's Day and want a cover in the usual colour.",
            "I'm taking a picture of [a fire engine|ripe tomatoes] and want a book to match.",
            "My reading corner should say stop, as a traffic light does.",
        ),
        "blue": (
            "My cottage by the sea needs a cover that goes with the [ocean|waves].",
            "I'm wearing jeans and want a book [that matches them|in the same colour].",
            "I want to hold up a cover that vanishes against the clear summer sky.",
        ),
        "green": (
            "I'm lying on the lawn and want a book that blends in with the grass.",
            "The window display is about Saint Patrick's Day, and a book should match the shamrocks.",
            "Our book club reads about forests and likes covers to match the leaves in June.",
        ),
        "yellow": (
            "The nursery is full of [chicks and ducklings|painted suns], and a book should match them.",
            "I want a cover as bright as a [canary|lemon|daffodil] on my desk.",
            "I'm writing about New York and want a book that matches the taxis.",
        ),
        "purple": (
            "I'm sitting in a field of lavender and want a book that matches it.",
            "My aubergine recipes deserve a cover that goes with the vegetable.",
            "I play a Roman emperor and want a book in the colour of his robe.",
        ),
    },
    "condiment": {
        "from_bees": (
            "My porridge [is bland|tastes of nothing], and I'd like to sweeten it without sugar.",
            "I have a sore throat and want something sweet and golden with my meal.",
            "Winnie-the-Pooh is coming to tea, and he has only one wish.",
        ),
        "from_tomatoes": (
            "My fries look [lonely|naked] without something red and tangy.",
            "The kids won't touch their burgers without the [usual red|red] sauce.",
            "The hot dog has its yellow stripe, but still lacks the red one.",
        ),
        "sharp": (
            "My [bratwurst|pretzel|boiled sausage] could use something yellow and sharp.",
            "The hot dog has its red stripe, but still lacks the yellow one.",
            "I like my roast beef with something from Dijon that goes up the nose.",
        ),
        "from_beans": (
            "The sushi is ready, but its dark dip is missing.",
            "I've made fried rice, and it needs that dark, savoury Asian flavour.",
            "My dumplings want to be dipped into something dark, as in China.",
        ),
        "makes_you_sneeze": (
            "[This steak|The soup] is dull and needs a bite of something freshly ground.",
            "I like my eggs with little black specks that tickle the nose.",
            "I'm out of chillies, but the dish should have a little heat from black grains.",
        ),
        "from_the_sea": (
            "The [soup|pasta] tastes flat: the cook forgot the most basic seasoning of all.",
            "My [popcorn|boiled egg] only wants a pinch of something plain and white.",
            "My tomatoes want a pinch of what the sea leaves behind when it dries.",
        ),
    },
    "flower": {
        "love": (
            "It's Valentine's Day, and I want to show my [wife|husband|sweetheart] how much I care.",
            "I'm going to propose tonight, and the table needs the classic symbol of romance.",
            "I want to say 'I love you' without any words.",
        ),
        "from_holland": (
            "I'm homesick for Amsterdam in spring.",
            "Our visitors come from Holland and should feel at home.",
            "I'd like something grown from a bulb to go with my picture of windmills.",
        ),
        "edible_seeds": (
            "I'd like to paint the still life that Van Gogh [made in Arles|is best known for].",
            "I want something tall and golden whose seeds I can feed to the birds later.",
            "The room should feel like high summer, with one big golden head of petals.",
        ),
        "petals_pulled_off": (
            "My daughter wants to find out whether he loves her or loves her not.",
            "I want something small, simple and white, like what grows on the lawn.",
            "My little sister wants to make a white chain for her hair.",
        ),
        "scented": (
            "I sleep badly and would like a calming scent [by my bed|in my bedroom].",
            "Moths have been at my jumpers, and I'd like a scent that keeps them away.",
            "I dream of a holiday in Provence and its fragrant fields.",
        ),
    },
    "tube": {
        "acid": (
            "I want to show the class what litmus looks like in an acid.",
            "I'd like to dissolve some chalk, so I need the acid; litmus has been added to it.",
            "I put litmus into my samples and now need the one that is [not alkaline|acid].",
        ),
        "copper": (
            "I'd like to grow crystals of copper sulphate [with my class|over the weekend].",
            "I want to plate a [coin|nail] with copper.",
            "The winegrower needs the copper salt against mildew.",
        ),
        "nickel": (
            "I'd like to plate a [key|spoon] with nickel.",
            "The lesson is about nickel salts today.",
            "I want to show what happens when ammonia meets dissolved nickel.",
        ),
        "chromate": (
            "I need the chromate as an indicator for [my titration|titrating chloride].",
            "I want to show the class how chromate turns into dichromate.",
            "I'd like to precipitate silver chromate and need the right ion for it.",
        ),
        "permanganate": (
            "I need a strong oxidiser for my titration, the one [with manganese in it|that contains manganese].",
            "I want to show the class how permanganate loses its colour.",
            "I'd like to oxidise an alcohol with permanganate.",
        ),
    },
    "card": {
        "highest_card": (
            "I only need the card that nothing else can beat.",
            "I'm listening to Motörhead and want the card from their biggest song.",
            "One more of the strongest cards, and I'd hold the best pair in poker.",
        ),
        "man_on_card": (
            "A man with a crown is missing from my hand.",
            "I want the ruler who would be right for Valentine's Day.",
            "I collect characters from Alice in Wonderland and still lack the queen's timid husband.",
        ),
        "woman_on_card": (
            "A royal lady is all that I need to complete my hand.",
            "I want the lady with the jewels.",
            "In chess I'd be after the strongest piece, and the same title will do here.",
        ),
        "worth_ten": (
            "I hold eleven in blackjack and want to reach twenty-one with one more card.",
            "I'm at nine in blackjack, and nineteen would be [perfect|just right].",
            "I'm at eight in blackjack and want exactly eighteen.",
        ),
        "lucky_number": (
            "I'm superstitious and want the [classic lucky number|number that is said to bring luck].",
            "I'd like the card that has as many symbols as a week has days.",
            "I want one symbol for each of Snow White's dwarfs.",
        ),
        "lowest_card": (
            "We're playing a game in which the smallest card wins.",
            "I want to lose this round on purpose, with the [weakest|lowest] card of all.",
            "I'd like the card that has one symbol for each of my eyes.",
        ),
    },
}
