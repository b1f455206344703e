"""The table of classes of the embedded world: names, word forms, glyphs, roles, hierarchy.

The table is fixed (never sampled by seed): the detector that ships with the package was trained on it, and
its head has one output per row with `detector=True`, in this order. Reviewed by eye on contact sheets:
glyphs that a person would not name alike, plain English names, no name that is a word of another one's
caption unless the longest match tells them apart ("tree" / "palm tree"). Every name and every parent
has at most three pieces in BERT's uncased vocabulary, most have one; `tests/test_world.py` measures it.

Roles. base: occurs in captions (and in tags). novel: occurs in image-tag pairs only, the detector knows it.
unseen: novel and unknown to the detector as well, its objects are untagged regions at test.
"""

from dataclasses import dataclass

# name | plural (empty: name + "s") | code point of the glyph | role | parents, nearest last
_TABLE = """
dog              |                | 1F415 | base   | animal, mammal
cat              |                | 1F408 | base   | animal, mammal
horse            |                | 1F40E | base   | animal, mammal
cow              |                | 1F404 | base   | animal, mammal
sheep            | sheep          | 1F411 | base   | animal, mammal
elephant         |                | 1F418 | base   | animal, mammal
bear             |                | 1F43B | base   | animal, mammal
zebra            |                | 1F993 | base   | animal, mammal
giraffe          |                | 1F992 | base   | animal, mammal
duck             |                | 1F986 | base   | animal, bird
bicycle          |                | 1F6B2 | base   | vehicle
car              |                | 1F697 | base   | vehicle
motorcycle       |                | 1F3CD | base   | vehicle
airplane         |                | 2708  | base   | vehicle, aircraft
bus              | buses          | 1F68D | base   | vehicle
train            |                | 1F682 | base   | vehicle
truck            |                | 1F69B | base   | vehicle
boat             |                | 26F5  | base   | vehicle, watercraft
traffic light    |                | 1F6A6 | base   | sign
stop sign        |                | 1F6D1 | base   | sign
kite             |                | 1FA81 | base   | toy
teddy bear       |                | 1F9F8 | base   | toy
soccer ball      |                | 26BD  | base   | sports equipment
baseball         |                | 26BE  | base   | sports equipment
basketball       |                | 1F3C0 | base   | sports equipment
chair            |                | 1FA91 | base   | furniture
couch            | couches        | 1F6CB | base   | furniture
bed              |                | 1F6CF | base   | furniture
toilet           |                | 1F6BD | base   | furniture
clock            |                | 1F570 | base   | device
laptop           |                | 1F4BB | base   | device
cell phone       |                | 1F4F1 | base   | device
computer mouse   | computer mice  | 1F5B1 | base   | device
television       |                | 1F4FA | base   | device
vase             |                | 1F3FA | base   | container
handbag          |                | 1F45C | base   | container, luggage
backpack         |                | 1F392 | base   | container, luggage
suitcase         |                | 1F9F3 | base   | container, luggage
bottle           |                | 1F37E | base   | container, drink
wine glass       | wine glasses   | 1F377 | base   | container, drink
cup              |                | 2615  | base   | container, drink
bowl             |                | 1F963 | base   | container
knife            | knives         | 1F52A | base   | tool
hammer           |                | 1F528 | base   | tool
umbrella         |                | 2602  | base   | accessory
book             |                | 1F4D5 | base   | paper
shoe             |                | 1F45E | base   | clothing, footwear
guitar           |                | 1F3B8 | base   | musical instrument
apple            |                | 1F34E | base   | food, fruit
banana           |                | 1F34C | base   | food, fruit
sandwich         | sandwiches     | 1F96A | base   | food
pizza            |                | 1F355 | base   | food
hot dog          |                | 1F32D | base   | food
carrot           |                | 1F955 | base   | food, vegetable
broccoli         | broccoli       | 1F966 | base   | food, vegetable
donut            |                | 1F369 | base   | food, dessert
cake             |                | 1F370 | base   | food, dessert
tree             |                | 1F333 | base   | plant
potted plant     |                | 1FAB4 | base   | plant
house            |                | 1F3E0 | base   | building
pig              |                | 1F416 | novel  | animal, mammal
monkey           |                | 1F412 | unseen | animal, mammal
rabbit           |                | 1F407 | novel  | animal, mammal
koala            |                | 1F428 | novel  | animal, mammal
kangaroo         |                | 1F998 | novel  | animal, mammal
camel            |                | 1F42A | novel  | animal, mammal
lion             |                | 1F981 | novel  | animal, mammal
tiger            |                | 1F405 | unseen | animal, mammal
fox              | foxes          | 1F98A | novel  | animal, mammal
wolf             | wolves         | 1F43A | novel  | animal, mammal
panda            |                | 1F43C | unseen | animal, mammal
deer             | deer           | 1F98C | novel  | animal, mammal
squirrel         |                | 1F43F | unseen | animal, mammal
raccoon          |                | 1F99D | novel  | animal, mammal
bee              |                | 1F41D | novel  | animal, insect
bat              |                | 1F987 | unseen | animal, mammal
unicorn          |                | 1F984 | novel  | animal
whale            |                | 1F433 | novel  | animal, mammal
shark            |                | 1F988 | novel  | animal
frog             |                | 1F438 | novel  | animal
crocodile        |                | 1F40A | novel  | animal, reptile
snake            |                | 1F40D | unseen | animal, reptile
turtle           |                | 1F422 | novel  | animal, reptile
dinosaur         |                | 1F996 | unseen | animal, reptile
dragon           |                | 1F409 | novel  | animal
snail            |                | 1F40C | unseen | animal
octopus          | octopuses      | 1F419 | novel  | animal
crab             |                | 1F980 | novel  | animal
lobster          |                | 1F99E | unseen | animal
jellyfish        | jellyfish      | 1FABC | unseen | animal
owl              |                | 1F989 | novel  | animal, bird
penguin          |                | 1F427 | unseen | animal, bird
parrot           |                | 1F99C | novel  | animal, bird
flamingo         |                | 1F9A9 | novel  | animal, bird
peacock          |                | 1F99A | unseen | animal, bird
rooster          |                | 1F413 | novel  | animal, bird
swan             |                | 1F9A2 | unseen | animal, bird
turkey           |                | 1F983 | novel  | animal, bird
ladybug          |                | 1F41E | novel  | animal, insect
butterfly        | butterflies    | 1F98B | unseen | animal, insect
spider           |                | 1F577 | novel  | animal
pear             |                | 1F350 | novel  | food, fruit
lemon            |                | 1F34B | unseen | food, fruit
pineapple        |                | 1F34D | novel  | food, fruit
watermelon       |                | 1F349 | unseen | food, fruit
kiwi             |                | 1F95D | novel  | food, fruit
coconut          |                | 1F965 | unseen | food, fruit
avocado          |                | 1F951 | novel  | food, fruit
strawberry       | strawberries   | 1F353 | novel  | food, fruit
eggplant         |                | 1F346 | unseen | food, vegetable
bell pepper      |                | 1FAD1 | novel  | food, vegetable
corn cob         |                | 1F33D | novel  | food, vegetable
mushroom         |                | 1F344 | unseen | food, vegetable
pumpkin          |                | 1F383 | novel  | food, vegetable
hamburger        |                | 1F354 | novel  | food
taco             |                | 1F32E | novel  | food
croissant        |                | 1F950 | unseen | food
pretzel          |                | 1F968 | novel  | food
ice cream        |                | 1F366 | unseen | food, dessert
cupcake          |                | 1F9C1 | novel  | food, dessert
lollipop         |                | 1F36D | novel  | food, dessert
chocolate bar    |                | 1F36B | novel  | food, dessert
bubble tea       |                | 1F9CB | unseen | drink
beer mug         |                | 1F37A | novel  | container, drink
helicopter       |                | 1F681 | novel  | vehicle, aircraft
rocket           |                | 1F680 | unseen | vehicle, aircraft
flying saucer    |                | 1F6F8 | novel  | vehicle, aircraft
parachute        |                | 1FA82 | unseen | aircraft
fire engine      |                | 1F692 | novel  | vehicle
race car         |                | 1F3CE | unseen | vehicle
tractor          |                | 1F69C | novel  | vehicle
cable car        |                | 1F6A0 | novel  | vehicle
canoe            |                | 1F6F6 | novel  | vehicle, watercraft
wheelchair       |                | 1F9BD | novel  | vehicle
scooter          |                | 1F6F4 | novel  | vehicle
shopping cart    |                | 1F6D2 | unseen | container
trumpet          |                | 1F3BA | novel  | musical instrument
saxophone        |                | 1F3B7 | unseen | musical instrument
drum             |                | 1F941 | novel  | musical instrument
piano            |                | 1F3B9 | novel  | musical instrument
accordion        |                | 1FA97 | unseen | musical instrument
harp             |                | 1FA89 | novel  | musical instrument
saw              |                | 1FA9A | novel  | tool
ladder           |                | 1FA9C | unseen | tool
broom            |                | 1F9F9 | novel  | tool
bucket           |                | 1FAA3 | novel  | tool, container
magnet           |                | 1F9F2 | novel  | tool
microscope       |                | 1F52C | novel  | device, tool
light bulb       |                | 1F4A1 | unseen | device
alarm clock      |                | 23F0  | novel  | device
camera           |                | 1F4F7 | novel  | device
telephone        |                | 260E  | novel  | device
game controller  |                | 1F3AE | novel  | device, toy
candle           |                | 1F56F | novel  | accessory
key              |                | 1F511 | unseen | tool
anchor           |                | 2693  | novel  | tool
boxing glove     |                | 1F94A | novel  | sports equipment
tennis ball      |                | 1F3BE | novel  | sports equipment
football         |                | 1F3C8 | unseen | sports equipment
dart board       |                | 1F3AF | novel  | sports equipment
ice skate        |                | 26F8  | unseen | sports equipment, footwear
roller skate     |                | 1F6FC | unseen | sports equipment, footwear
trophy           | trophies       | 1F3C6 | novel  | accessory
balloon          |                | 1F388 | unseen | toy
doll             |                | 1FA86 | novel  | toy
robot            |                | 1F916 | unseen | toy, device
puzzle piece     |                | 1F9E9 | novel  | toy
snowman          | snowmen        | 26C4  | novel  | toy
top hat          |                | 1F3A9 | novel  | clothing
crown            |                | 1F451 | unseen | clothing, accessory
scarf            | scarves        | 1F9E3 | novel  | clothing, accessory
dress            | dresses        | 1F457 | novel  | clothing
high heel        |                | 1F460 | unseen | clothing, footwear
cactus           | cacti          | 1F335 | novel  | plant
palm tree        |                | 1F334 | unseen | plant
sunflower        |                | 1F33B | novel  | plant, flower
castle           |                | 1F3F0 | novel  | building
church           | churches       | 26EA  | unseen | building
ferris wheel     |                | 1F3A1 | novel  | building
tent             |                | 26FA  | novel  | building
bathtub          |                | 1F6C1 | novel  | furniture
treasure chest   |                | 1FA8E | unseen | container, furniture
"""


@dataclass(frozen=True)
class ObjectClass:
    """One class of the world.

    Attributes:
        name, plural: lower-case English word forms, one or two words.
        codepoint: hexadecimal code point of its glyph, e.g. "1F415".
        mid: machine id in the style of Open Images, unique.
        role: "base" (captions name it) or "novel" (no training caption does).
        detector: whether the shipped detector can name it; always True for base classes.
        parents: one or two more general classes, nearest last.
    """

    name: str
    plural: str
    codepoint: str
    mid: str
    role: str
    detector: bool
    parents: tuple[str, ...]

    @property
    def forms(self) -> tuple[str, ...]:
        """The word forms that count as naming this class in a caption."""
        return (self.name,) if self.plural == self.name else (self.name, self.plural)


def _parse(row: str) -> ObjectClass:
    name, plural, codepoint, role, parents = (cell.strip() for cell in row.split("|"))
    return ObjectClass(
        name=name,
        plural=plural or name + "s",
        codepoint=codepoint,
        mid=f"/m/0om{codepoint.lower()}",
        role="base" if role == "base" else "novel",
        detector=role != "unseen",
        parents=tuple(parent.strip() for parent in parents.split(",")),
    )


CLASSES: list[ObjectClass] = [_parse(row) for row in _TABLE.strip().splitlines()]
CLASS_BY_NAME: dict[str, ObjectClass] = {entry.name: entry for entry in CLASSES}
BASE_CLASSES: list[ObjectClass] = [entry for entry in CLASSES if entry.role == "base"]
NOVEL_CLASSES: list[ObjectClass] = [entry for entry in CLASSES if entry.role == "novel"]
DETECTOR_CLASSES: list[ObjectClass] = [entry for entry in CLASSES if entry.detector]
