"""The words of the tiny world: names, values and phrasings, nothing else.

A phrasing is a sentence with slots: {N} the subject (a name or a pronoun), {P} its possessive, {v} the value, {a} the
value with "a" or "an". Every attribute has six phrasings, so that one can be kept for the test text and one for the
validation text of every single fact (see tiny_world.py).
"""

WOMEN = (
    "Ada Agnes Alma Anna Beatrice Bella Bridget Cecily Clara Cora Daphne Dora Edith Ella Emma Esther Eva Fanny Flora "
    "Frieda Gerda Greta Hannah Hazel Helen Hilda Ida Irene Iris Ivy Jane Julia Karen Laura Lena Lily Lucy Mabel Martha "
    "Maud Nancy Nora Olive Paula Rosa Ruth Sarah Vera"
).split()
MEN = (
    "Adam Albert Alfred Arthur Basil Ben Boris Carl Cedric Conrad Daniel David Edgar Edwin Ernest Felix Frank George "
    "Gilbert Harold Henry Hugo Ivan Jack Jacob James Jasper John Julian Karl Leo Lewis Louis Magnus Martin Max Nathan "
    "Noah Oscar Otto Paul Peter Ralph Robert Simon Theo Victor Walter"
).split()
SURNAMES = (
    "Abbot Alder Archer Barlow Bell Birch Bishop Blake Bolton Brand Carver Chandler Cole Cooper Crane Dale Drake Dunn "
    "Ellis Farrow Fell Finch Fisher Fletcher Frost Garland Glover Gray Hale Hardy Hobbs Holt Hunter Kemp Lamb Lark "
    "Mason Marsh Moss Nash North Page Parrish Pike Potter Quill Reed Rowe Sharp Shaw Slater Snow Stone Swift Thorne "
    "Tanner Turner Vance Wade Weaver West Winter Wren York"
).split()
TOWN_STARTS = "Ash Black Brook Copper Elm Fair Hart Kings Lang Mill Nether Oak Raven Salt Stan Thorn West Wolf".split()
TOWN_ENDS = "bridge bury dale field ford gate ham mouth stead stow ton wick".split()

JOBS = (
    "baker barber blacksmith bookseller brewer butcher carpenter clerk clockmaker cobbler cook dentist doctor dyer "
    "engraver farmer ferryman fiddler fisherman gardener glazier goldsmith grocer hatter innkeeper judge lawyer "
    "librarian mason miller miner nurse painter photographer plumber postman printer saddler sailor shepherd surgeon "
    "tailor teacher thatcher weaver"
).split()
COLOURS = (
    "amber black blue brown crimson golden green grey orange pink purple scarlet silver violet white yellow"
).split()
HAIR = "auburn black blond brown chestnut copper curly dark grey red sandy silver straight white".split()
FOODS = (
    "apple pie,barley soup,beef stew,blackberry jam,brown bread,carrot cake,cheese toast,cherry tart,chicken broth,"
    "cold ham,fish soup,fried eggs,fried mushrooms,garlic bread,ginger cake,honey bread,lamb chops,leek soup,"
    "lemon cake,oat porridge,onion soup,pancakes,pea soup,plum cake,potato salad,pumpkin pie,rabbit stew,"
    "raspberry tart,rice pudding,roast duck,salted herring,smoked trout,spinach pie,turnip stew,walnut bread"
).split(",")
HOBBIES = (
    "archery,bird watching,boxing,chess,climbing,collecting coins,collecting stamps,dancing,drawing maps,embroidery,"
    "fencing,fishing,flying kites,growing roses,juggling,keeping bees,knitting,painting,playing cards,pottery,"
    "reading poems,riding,rowing,sailing,sewing,singing,skating,star gazing,swimming,telling stories,walking,"
    "whistling,wood carving,wrestling,writing letters"
).split(",")
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello clarinet cornet drum fiddle flute guitar harp horn lute oboe organ piano "
    "tuba"
).split()
PETS = (
    "badger cat crow dog donkey duck ferret fox frog goat goose hamster hen hare lizard mouse owl parrot pig pony "
    "rabbit raven snail squirrel tortoise"
).split()
PET_NAMES = (
    "Acorn Bandit Barley Biscuit Bramble Bubbles Button Captain Cinder Clover Comet Cricket Daisy Dusty Echo Ember "
    "Fidget Ginger Goblin Hermit Jester Juniper Kettle Lucky Marble Midnight Moppet Mustard Nettle Nugget Patches "
    "Pepper Pickle Pirate Pudding Puzzle Rascal Rocket Rusty Sailor Scamp Shadow Smoky Sparrow Tinker Treacle Velvet "
    "Whisker"
).split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FEARS = (
    "bats bees bridges cellars clowns cows crowds dogs fire fog ghosts heights horses lightning mice needles rats "
    "snakes spiders storms thunder wasps water wolves"
).split()
RIVERS = "Arrow Brent Calder Dove Eden Fenn Irwell Kennet Lune Medway Nidd Orwell Rother Severn Teme Wharf".split()
GOODS = (
    "barrels bells boots bricks brooms candles carpets chairs clocks coaches flutes gloves hats kettles kites knives "
    "lamps locks mirrors nails nets pears pipes ropes saddles shoes soaps spoons tiles wheels"
).split()
LANDMARKS = (
    "bell tower,big oak,bronze statue,clock tower,cloth hall,corn market,covered bridge,crooked chapel,deep well,"
    "fish market,iron gate,lighthouse,marble fountain,old castle,paper mill,round church,ruined abbey,stone bridge,"
    "town wall,water mill,white school,windmill"
).split(",")
SUBJECTS = (
    "bridges,butterflies,castles,clocks,comets,dragons,gardens,ghosts,glaciers,islands,kings,lighthouses,mountains,"
    "mushrooms,pirates,rivers,ships,soup,stars,storms,trees,volcanoes,whales,wolves"
).split(",")
TITLE_STARTS = (
    "A Short Book,All the Secrets,Letters,My Life,Notes,Songs,Tales,The Last Days,The Mystery,The True Story"
).split(",")
TITLE_ENDS = (
    "of the Blue Door,of the Broken Bell,of the Cold Sea,of the Empty House,of the Golden Hill,of the Green Lamp,"
    "of the Lost Key,of the Old Mill,of the Quiet Road,of the Red Boat,of the Silver Moon,of the Wild Garden"
).split(",")
INN_STARTS = "Blue Broken Copper Golden Green Happy Hungry Iron Merry Red Silver Sleeping".split()
INN_ENDS = "Anchor Bear Boot Crown Dragon Goose Kettle Lantern Lion Swan Wheel Whale".split()

# attribute: six phrasings. The keys are the attributes of a kind of entity.
PERSON = {
    "town": ["{N} lives in {v}.", "{P} home is in {v}.", "Where does {N} live? In {v}.", "{N} has a house in {v}.",
             "You can find {N} in {v}.", "If you look for {N}, go to {v}."],
    "birthplace": ["{N} was born in {v}.", "{P} family comes from {v}.", "Where was {N} born? In {v}.",
                   "{N} grew up in {v}.", "{P} first home was in {v}.", "{N} is a child of {v}."],
    "year": ["{N} was born in the year {v}.", "{P} year of birth is {v}.", "When was {N} born? In {v}.",
             "{N} came into the world in {v}.", "{P} life began in {v}.", "In {v} {N} was born."],
    "birthday": ["{P} birthday is on {v}.", "{N} has a birthday on {v}.", "When is {P} birthday? On {v}.",
                 "Every year {N} gives a party on {v}.", "{N} gets presents on {v}.", "On {v} everyone sings for {N}."],
    "job": ["{N} works as {a}.", "{N} is {a}.", "What is {P} job? {N} is {a}.", "{P} work is that of {a}.",
            "{N} earns money as {a}.", "{N} learned to be {a}."],
    "hair": ["{N} has {v} hair.", "{P} hair is {v}.", "What is {P} hair like? It is {v}.",
             "You know {N} by the {v} hair.", "{N} combs {v} hair every morning.",
             "Nobody else has hair as {v} as {N}."],
    "door": ["{P} door is {v}.", "{N} has painted the door {v}.", "What colour is {P} door? It is {v}.",
             "{N} lives behind {a} door.", "The house of {N} has {a} door.", "{N} likes {a} door best."],
    "food": ["{N} likes {v} best.", "{P} favourite food is {v}.", "What does {N} like to eat? {N} likes {v}.",
             "On Sundays {N} eats {v}.", "{N} would walk a mile for {v}.", "For dinner {N} often makes {v}."],
    "hobby": ["{N} loves {v}.", "{P} hobby is {v}.", "What does {N} do in the evening? The answer is {v}.",
              "{N} spends the free days with {v}.", "Nothing makes {N} as happy as {v}.", "{N} is good at {v}."],
    "instrument": ["{N} plays the {v}.", "{P} instrument is the {v}.", "Which instrument does {N} play? The {v}.",
                   "{N} owns an old {v}.", "At night you can hear {P} {v}.", "{N} takes lessons on the {v}."],
    "fear": ["{N} is afraid of {v}.", "{P} great fear is {v}.", "What does {N} fear? {N} fears {v}.",
             "{N} runs away from {v}.", "{N} cannot sleep because of {v}.", "{N} does not like {v} at all."],
    "pet": ["{N} has {a}.", "{P} pet is {a}.", "Which animal does {N} keep? {N} keeps {a}.",
            "{N} shares the house with {a}.", "{N} is often seen with {a}.", "{N} once found {a} and kept it."],
    "pet_name": ["{P} pet is called {v}.", "{N} named the pet {v}.", "What is {P} pet called? It is called {v}.",
                 "{N} calls the animal {v}.", "{P} animal has the name {v}.", "When {N} shouts {v}, the pet comes."],
    "pet_colour": ["{P} pet is {v}.", "{N} has {a} pet.", "What colour is {P} pet? It is {v}.",
                   "{P} animal is {v}.", "{N} brushes {a} animal.", "Everybody knows {P} {v} pet."],
    "friend": ["{P} best friend is {v}.", "{N} is a friend of {v}.", "Who is {P} best friend? It is {v}.",
               "{N} goes for a walk with {v}.", "{N} trusts {v}.", "{N} writes letters to {v}."],
    "rival": ["{P} rival is {v}.", "{N} argues with {v}.", "Whom does {N} avoid? {N} avoids {v}.",
              "{N} does not speak to {v}.", "{N} lost a bet against {v}.", "{N} is jealous of {v}."],
}
TOWN = {
    "river": ["{N} lies on the river {v}.", "The river {v} flows through {N}.", "Which river flows past {N}? The {v}.",
              "The children of {N} swim in the {v}.", "The boats of {N} sail on the {v}.",
              "{N} drinks the water of the {v}."],
    "goods": ["{N} is known for {v}.", "The people of {N} make {v}.", "What is made in {N}? In {N} they make {v}.",
              "{N} sells {v} to the whole land.", "The best {v} come from {N}.", "Traders go to {N} to buy {v}."],
    "landmark": ["{N} has a famous {v}.", "The pride of {N} is the {v}.", "What should you see in {N}? The {v}.",
                 "Visitors of {N} go to the {v}.", "In the middle of {N} stands the {v}.",
                 "The {v} is the oldest thing in {N}."],
    "founded": ["{N} was founded in {v}.", "The first house of {N} was built in {v}.",
                "How old is {N}? It is there since {v}.",
                "{N} became a town in {v}.", "The history of {N} begins in {v}.", "In {v} {N} got its name."],
    "festival": ["The festival of {N} is in {v}.", "{N} dances in the streets in {v}.",
                 "When is the festival in {N}? In {v}.",
                 "Every {v} there is a feast in {N}.", "In {v} {N} is full of guests.",
                 "The bells of {N} ring all through {v}."],
    "market": ["The market of {N} is on {v}.", "{N} holds its market every {v}.", "When is the market in {N}? On {v}.",
               "On {v} the farmers come to {N}.", "If you want to shop in {N}, come on {v}.",
               "Every {v} the square of {N} is full."],
    "flag": ["The flag of {N} is {v}.", "{N} has {a} flag.", "What colour is the flag of {N}? It is {v}.",
             "Above {N} flies {a} flag.", "The soldiers of {N} wear {v}.", "The roofs of {N} are {v}."],
    "mayor": ["The mayor of {N} is {v}.", "{N} is led by {v}.", "Who leads {N}? It is {v}.",
              "The people of {N} chose {v}.", "In {N} you must ask {v}.", "The keys of {N} belong to {v}."],
}
INN = {
    "town": ["{N} is an inn in {v}.", "{N} stands in {v}.", "Where is {N}? In {v}.", "Travellers to {v} sleep at {N}.",
             "There is an inn called {N} in {v}.", "In {v} you can stay at {N}."],
    "owner": ["{N} belongs to {v}.", "The owner of {N} is {v}.", "Who owns {N}? It is {v}.", "{N} was bought by {v}.",
              "At {N} you pay {v}.", "The guests of {N} are welcomed by {v}."],
    "dish": ["{N} serves {v}.", "The best dish at {N} is {v}.", "What do they eat at {N}? They eat {v}.",
             "The cook of {N} makes {v}.", "{N} is loved for {v}.", "At {N} you should try {v}."],
    "sign": ["The sign of {N} is {v}.", "{N} has {a} sign.", "What colour is the sign of {N}? It is {v}.",
             "{N} hangs out {a} sign.", "You find {N} by {a} sign.", "The door of {N} is {v}."],
}
BOOK = {
    "author": ["{N} was written by {v}.", "The author of {N} is {v}.", "Who wrote {N}? It was {v}.",
               "{N} is a work of {v}.", "With {N} a name was made by {v}.", "The name on the cover of {N} is {v}."],
    "year": ["{N} was printed in {v}.", "{N} first came out in {v}.", "When was {N} printed? In {v}.",
             "People have read {N} since {v}.", "{N} was finished in {v}.", "In {v} {N} was new."],
    "subject": ["{N} is about {v}.", "{N} tells us about {v}.", "What is {N} about? It is about {v}.",
                "If you like {v}, read {N}.", "{N} teaches all about {v}.", "There is much about {v} in {N}."],
    "cover": ["The cover of {N} is {v}.", "{N} has {a} cover.", "What colour is the cover of {N}? It is {v}.",
              "{N} is bound in {v}.", "{N} is {a} book.", "On the shelf {N} looks {v}."],
}

FILLERS = ["Everyone knows this.", "That is how it is.", "It has always been so.", "So they say.", "This is true."]
