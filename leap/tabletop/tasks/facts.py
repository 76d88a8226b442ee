"""CommonSense descriptions: property (see `leap.tabletop.catalogue`) -> ways to say it without the object's name.

A description takes the place of the object in a request ("put {object} into the basket"). A property that several
kinds share ("citrus") is drawn too: the scene then holds just one of them.
"""

FACTS: dict[str, dict[str, tuple[str, ...]]] = {
    "fruit": {
        "monkey_favourite": (
            "the fruit that monkeys [love|adore|are said to love]",
            "the fruit that every cartoon monkey is [eating|holding]",
            "the fruit whose skin people slip on in slapstick films",
            "the fruit with a [long, curved|curved] shape",
        ),
        "in_legends": (
            "the fruit that is said to have fallen on Newton's head",
            "the fruit that, as the saying goes, keeps the doctor away",
            "the fruit that cider is made from",
            "the fruit that poisoned Snow White",
        ),
        "names_a_colour": (
            "the fruit that [shares its name with|is also the name of] a colour",
            "the fruit that marmalade is [mostly|usually] made from",
            "the round fruit that comes apart in sweet, juicy segments",
        ),
        "sour": (
            "the fruit that tastes very sour",
            "the fruit that people squeeze over [fried |]fish",
            "the fruit that makes you pull a face when you bite into it",
            "the fruit that is too sour to eat on its own",
        ),
        "biggest_fruit": (
            "the fruit that [grows biggest|weighs the most]",
            "the fruit with a hard green rind and juicy red flesh",
            "the fruit that is cut into big slices at summer picnics",
        ),
        "makes_wine": (
            "the fruit that wine is made from",
            "the fruit that grows in vineyards",
            "the fruit that turns into raisins when it dries",
        ),
        "bulb_shaped": (
            "the fruit that is shaped like a light bulb",
            "the fruit that is [slim|narrow] at the top and [wide|round] at the bottom",
            "the fruit that grows on the partridge's tree in the Christmas song",
        ),
        "citrus": (
            "the citrus fruit",
            "the fruit that belongs to the citrus family",
            "the fruit whose zest bakers like to grate",
        ),
        "peeled_by_hand": (
            "the fruit that [people|you] peel by hand",
            "the fruit that has to be peeled before you eat it, but needs no knife",
            "the fruit whose peel comes off with your fingers",
        ),
    },
    "drink": {
        "from_barley": (
            "the drink [brewed|made] from barley",
            "the drink that is brewed with hops and malt",
            "the drink that people raise in big mugs at the Oktoberfest",
        ),
        "from_grapes": (
            "the drink [made|pressed] from grapes",
            "the drink that comes from a vineyard",
            "the drink that a sommelier knows all about",
        ),
        "from_cows": (
            "the drink that [cows give|comes from cows]",
            "the drink that cheese and yoghurt are made from",
            "the drink that is full of calcium",
        ),
        "vitamin_c": (
            "the drink that is full of vitamin C",
            "the drink that is squeezed from citrus fruit",
            "the drink that is [often served|a classic] at breakfast and made of fruit",
        ),
        "no_sugar": (
            "the drink that has neither taste nor calories",
            "the drink that also comes out of the tap",
            "the drink that plants need too",
        ),
        "soft_drink": (
            "the fizzy drink that contains caffeine",
            "the sweet, dark drink with bubbles in it",
            "the drink that is full of sugar, bubbles and caffeine",
        ),
        "alcoholic": (
            "the drink that [contains alcohol|has alcohol in it]",
            "the drink that only adults may have",
            "the drink that you should not have before driving",
        ),
        "fizzy": (
            "the [fizzy|bubbly] drink",
            "the drink with bubbles in it",
            "the drink that bubbles in the glass",
        ),
    },
    "toy": {
        "runs_on_rails": (
            "the toy that runs on rails",
            "the toy version of what stops at a railway station",
            "the toy that would need a track",
        ),
        "driven_on_roads": (
            "the toy version of what [people drive on the motorway|you park in a garage]",
            "the toy that looks like something you need a driving licence for",
            "the toy that is modelled on what stops at petrol stations",
        ),
        "bath": (
            "the toy that belongs in the bathtub",
            "the toy that [children play with|belongs] in the bath",
            "the toy that swims on the foam at bath time",
        ),
        "cuddly": (
            "the toy that children [cuddle|hug] in bed",
            "the [soft and cuddly|cuddly|furry] toy",
            "the toy that helps a small child fall asleep",
        ),
        "kicked": (
            "the toy that [you kick|is kicked] into a goal",
            "the toy that you need for a game of football",
            "the toy that a dog would love to chase and fetch",
        ),
        "spins": (
            "the toy that whirls round on its tip",
            "the toy that stays upright only while it is turning",
            "the toy that you twirl with your fingers",
        ),
        "animal": (
            "the toy that is shaped like an animal",
            "the toy animal",
            "the toy that stands for a living creature",
        ),
        "wheels": (
            "the toy [with|that has] wheels",
            "the toy that rolls on wheels",
            "the toy that is a small vehicle",
        ),
    },
    "book": {
        "red": (
            "the book in the colour of [ripe tomatoes|a fire engine]",
            "the book whose cover has the colour of a stop sign",
            "the book with a cover in the colour of blood",
            "the book in the colour that is at the top of a traffic light",
        ),
        "blue": (
            "the book in the colour of [a cloudless sky|the deep sea|denim jeans]",
            "the book whose cover has the colour of the [ocean|sky at noon]",
            "the book in the colour of the planet Neptune",
        ),
        "green": (
            "the book in the colour of [grass|fresh leaves|frogs]",
            "the book whose cover has the colour that you get from mixing blue and yellow",
            "the book in the colour that tells drivers to go",
        ),
        "yellow": (
            "the book in the colour of [ripe lemons|egg yolk|canaries]",
            "the book whose cover has the colour of a [sunflower|ripe banana|chick]",
            "the book in the colour of a New York taxi",
        ),
        "purple": (
            "the book in the colour of [lavender|aubergines]",
            "the book whose cover has the colour that you get from mixing red and blue",
            "the book in the colour that Roman emperors wore",
        ),
    },
    "condiment": {
        "from_bees": (
            "the condiment that bees make",
            "the condiment that is [gathered|harvested] from beehives",
            "the condiment that bears in stories steal",
        ),
        "from_tomatoes": (
            "the condiment that is made from tomatoes",
            "the red sauce that is eaten with chips",
            "the sauce that children like best on fries",
        ),
        "from_beans": (
            "the dark sauce that comes with sushi",
            "the condiment that is [brewed|fermented] from beans",
            "the dark, salty sauce that is used all over East Asia",
        ),
        "from_the_sea": (
            "the condiment that is left when sea water dries",
            "the white condiment that is also known as sodium chloride",
            "the condiment that is won from the sea",
        ),
        "makes_you_sneeze": (
            "the condiment that makes people sneeze",
            "the condiment that is ground from small, dried, black berries",
            "the hot spice that stands on almost every table",
        ),
        "sharp": (
            "the yellow sauce that is eaten with sausages",
            "the condiment that Dijon is famous for",
            "the sharp paste that is made from small yellow seeds",
        ),
    },
    "flower": {
        "love": (
            "the flower that lovers give on Valentine's Day",
            "the flower that stands for love",
            "the flower that has thorns on its stem",
        ),
        "from_holland": (
            "the flower that [Holland is|the Netherlands are] famous for",
            "the flower that once drove Dutch merchants mad",
            "the flower that is grown from bulbs in Dutch fields",
        ),
        "edible_seeds": (
            "the flower whose seeds are pressed for [cooking |]oil",
            "the flower that Van Gogh painted in a vase [again and again|in Arles]",
            "the flower whose seeds people and birds like to eat",
        ),
        "petals_pulled_off": (
            "the flower whose petals tell people whether they are loved",
            "the small white flower that [dots|grows on] every lawn",
            "the flower that children make chains of",
        ),
        "scented": (
            "the flower that perfumes [Provence|the South of France] in summer",
            "the flower that is put into little bags to keep moths away",
            "the flower whose scent helps people [sleep|relax]",
        ),
    },
    "tube": {
        "acid": (
            "the tube in which litmus shows an acid",
            "the tube whose litmus says that the liquid is acid",
            "the tube with litmus and an acid in it",
        ),
        "copper": (
            "the tube [with|that holds|containing] dissolved copper sulphate",
            "the tube [with the|that holds a] copper sulphate solution",
            "the tube that got its colour from a copper salt",
        ),
        "nickel": (
            "the tube [with|that holds|containing] dissolved nickel sulphate",
            "the tube [with the|that holds a] nickel salt solution",
            "the tube that got its colour from a nickel salt",
        ),
        "chromate": (
            "the tube [with|that holds|containing] dissolved potassium chromate",
            "the tube [with the|that holds a] chromate solution",
            "the tube that got its colour from a chromate",
        ),
        "permanganate": (
            "the tube [with|that holds|containing] dissolved potassium permanganate",
            "the tube [with the|that holds a] permanganate solution",
            "the tube that got its colour from permanganate",
        ),
    },
}
