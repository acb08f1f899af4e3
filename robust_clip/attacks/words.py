"""English words that mean little, common ones that mean something, and lists of words from files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

_FUNCTION_WORDS = """
a an the this that these those such same other another each every either neither both all any some many much more
most few fewer less least several enough no none one
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves who whom whose which what whoever whatever whichever
someone something somebody anyone anything anybody everyone everything everybody nobody nothing
am is are was were be been being do does did doing done have has had having can could may might must shall should
will would ought need dare used
isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't cannot couldn't mustn't shan't
shouldn't won't wouldn't it's that's there's he's she's i'm you're we're they're i've you've we've they've i'll
you'll he'll she'll we'll they'll i'd you'd he'd she'd we'd they'd let's s t d m o y ll re ve
about above across after against along amid among amongst around as at before behind below beneath beside besides
between beyond by despite down during except for from in inside into like near of off on onto out outside over past
per since than through throughout to toward towards under underneath until unto up upon via with within without
and but or nor so yet if unless because although though while whereas whether
not never ever always often sometimes seldom again already also almost just only even still too very quite rather
here there everywhere anywhere somewhere nowhere where wherever when whenever why how however now then once thus
hence therefore thereby moreover nevertheless otherwise else perhaps maybe indeed meanwhile instead further
. , ; : ! ? ' " ` - -- _ / \\ | ( ) [ ] { } < > @ # $ % ^ & * + = ~ ...
"""

# Things, creatures and places that captions speak of, and their properties: ours, from no corpus.
_NOUNS = """
airport animal ant apple arm avenue baby bag ball balloon banana bank barn basket bat bathroom beach beak bear bed
bedroom bee beer bell bench bicycle bird blanket boat body book boot bottle bowl box boy branch bread brick bridge
broom brush bucket building bull bus bush butter button cabin cake camel camera candle candy cap car card carpet
carrot castle cat cave ceiling chain chair cheese chicken child church circle city clock cloth cloud coast coat
coffee coin computer cookie corn corner cow crab cream crowd crown cup curtain deer desert desk dinner dish doctor
dog doll dolphin door dragon drawer dress drum duck eagle ear earth egg elephant engine eye face factory farm farmer
feather fence field fire fish flag flame floor flower fly fog food foot forest fork fountain fox frog fruit garage
garden gate giraffe girl glass glove goat goose grape grass guitar hair hall hammer hand harbor hat hawk hill honey
hook horn horse hospital hotel house human ice insect island jacket jar key king kitchen kite knife ladder lake lamb
lamp leaf leather lemon letter library light lion lizard lock log machine man map market mask meadow meat metal milk
mirror monkey moon mother motorcycle mountain mouse mouth mud mushroom music nail neck needle nest net newspaper
night nose nut ocean office oil onion orange oven owl ox paint palace pan paper park path pen pencil people pepper
person piano picture pie pig pillow pipe pizza plane planet plant plate pocket pond potato pumpkin queen rabbit radio
rain rat ribbon rice ring river road robot rock roof room root rope rose rug sailor salad salt sand sandwich scarf
school scissors sea seal seed shadow shark sheep shelf shell ship shirt shoe shop shore shoulder sign silk sink skirt
sky smoke snail snake snow soap sock sofa soldier soup spider spoon square squirrel stable stage stairs star station
statue steam steel stone storm stove strawberry street suit sun swan sweater table tail teacher tent theater thread
throne ticket tiger tile tire toe tomato tool tooth towel tower town toy track train tree triangle truck trumpet
tunnel turtle umbrella valley van vase vegetable village violin wagon wall wallet watch water wave weapon whale wheat
wheel window wine wing wire wolf woman wood wool worm yard zebra
"""
_ADJECTIVES = """
ancient bare big bitter black blue blurry bright broken brown calm clean cold colorful crowded curved dark deep dirty
dry dull empty fast fat flat fresh full furry giant gold gray green happy hard heavy high hollow hot huge large
little long loud low modern muddy narrow new old open pale pink plain pretty purple quiet red rough round rusty sad
sharp shiny short silent silver slow small smooth soft spotted steep striped strong sweet tall thick thin tiny
transparent ugly warm wet white wide wild wooden yellow young
"""

# Function words and punctuation, as written: "This" is not among them.
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
COMMON_WORDS = (*_NOUNS.split(), *_ADJECTIVES.split())


def read_words(source: str | Sequence[str]) -> tuple[str, ...]:
    """Words of a list, or of a file with one word a line.

    Args:
        source: Words, or the path of a UTF-8 file.

    Returns:
        The different words in their order, stripped.

    Raises:
        ValueError: If the file cannot be read, or there is no word.

    Example:
        >>> read_words(["cat", " dog ", "cat"])
        ('cat', 'dog')
    """
    words = _lines(source) if isinstance(source, str) else tuple(source)
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"words must be strings, got {next(word for word in words if not isinstance(word, str))!r}")
    different = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not different:
        raise ValueError(f"a word list must hold at least one word, got {source!r}")
    return different


@lru_cache(maxsize=4)
def _lines(path: str) -> tuple[str, ...]:
    """Lines of a text file."""
    try:
        return tuple(Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the word list {path!r}: {error}; give a UTF-8 file, one word a line") from error
