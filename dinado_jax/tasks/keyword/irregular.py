"""English words for which rules and lemminflect's dictionary do not give all forms, one per line.

Facts of the language, as learners' dictionaries list them in their appendices of irregular verbs
and plurals, British and American. Regular forms are listed too if a word has both (learned,
learnt), since the forms listed here replace those of the rules.
"""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """word -> its other forms, of lines "word form form"."""
    return {word: tuple(rest) for word, *rest in map(str.split, text.strip().splitlines())}


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Past tenses and participles; -s and -ing follow by rule unless they are listed.
VERBS = _table("""
arise arose arisen
backbite backbit backbitten
backslide backslid backslidden
be am is are was were been being
bear bore borne born
beat beat beaten
become became become
befall befell befallen
beget begot begat begotten begetting
behold beheld
bend bent
beset beset besetting
bespeak bespoke bespoken
bestride bestrode bestridden
betake betook betaken
bid bid bade bidden bidding
bind bound
bite bit bitten
bleed bled
blow blew blown
break broke broken
breastfeed breastfed
breed bred
bring brought
browbeat browbeat browbeaten
build built
buy bought
cast cast
catch caught
chide chid chided chidden
choose chose chosen
cling clung
clothe clothed clad
come came come
creep crept
crossbreed crossbred
cut cut cutting
deal dealt
dig dug digging
do does did done
draw drew drawn
drink drank drunk
drive drove driven
eat ate eaten
engrave engraved engraven
fall fell fallen
feed fed
feel felt
fight fought
find found
fit fit fitted fitting
flee fled
fling flung
forbear forbore forborne
forego forewent foregone
foreknow foreknew foreknown
foresee foresaw foreseen
foretell foretold
forgive forgave forgiven
forgo forwent forgone forgoes
forsake forsook forsaken
forswear forswore forsworn
freeze froze frozen
gainsay gainsaid
get got gotten getting
ghostwrite ghostwrote ghostwritten
gild gilded gilt
give gave given
go goes went gone
grave graved graven
grind ground
grow grew grown
hamstring hamstrung
handwrite handwrote handwritten
have has had
hear heard
hide hid hidden
hit hit hitting
hold held
hurt hurt
inlay inlaid
interbreed interbred
jigsaw jigsawed jigsawn
keep kept
know knew known
lay laid
lead led
leave left
lend lent
let let letting
lie lay lain lied lying
lipread lipread
lose lost
make made
may might
mean meant
meet met
melt melted molten
miscast miscast
misdeal misdealt
mishear misheard
mishit mishit mishitting
mislay mislaid
mislead misled
misread misread
misspend misspent
mistake mistook mistaken
misunderstand misunderstood
moonlight moonlighted moonlit
offset offset offsetting
outbid outbid outbidden outbidding
outdo outdoes outdid outdone
outfight outfought
outgrow outgrew outgrown
outlay outlaid
outride outrode outridden
outsell outsold
outshoot outshot
outspeak outspoke outspoken
outspend outspent
outthink outthought
outwear outwore outworn
overbear overbore overborne
overcast overcast
overcome overcame overcome
overdo overdoes overdid overdone
overdraw overdrew overdrawn
overeat overate overeaten
overfeed overfed
overfly overflew overflown
overgrow overgrew overgrown
overhang overhung
overhear overheard
overlay overlaid
overlie overlay overlain overlying
overpay overpaid
override overrode overridden
oversee oversaw overseen
oversell oversold
overshoot overshot
oversleep overslept
overspend overspent
overspread overspread
overtake overtook overtaken
overthrow overthrew overthrown
overwrite overwrote overwritten
partake partook partaken
pay paid
prepay prepaid
proofread proofread
prove proved proven
put put putting
read read
rebind rebound
rebuild rebuilt
recast recast
redo redoes redid redone
redraw redrew redrawn
rehear reheard
remake remade
rend rent
repay repaid
reread reread
resell resold
resend resent
retake retook retaken
retell retold
rethink rethought
rewind rewound
rewrite rewrote rewritten
ride rode ridden
rise rose risen
rive rived riven
roughcast roughcast
run ran run running
say said
see saw seen
seek sought
sell sold
send sent
set set setting
shake shook shaken
shall should
shave shaved shaven
shed shed shedding
shoe shod shoed shodden shoeing
shoot shot
shrink shrank shrunk shrunken
shut shut shutting
sightsee sightsaw sightseen sightseeing
sing sang sung
sink sank sunk sunken
sit sat sitting
sleep slept
slide slid slidden
sling slung
slink slunk
smite smote smitten
sneak sneaked snuck
speak spoke spoken
spend spent
spin spun span spinning
spit spat spit spitting
split split splitting
spotlight spotlighted spotlit
spread spread
spring sprang sprung
stand stood
steal stole stolen
stick stuck
sting stung
stink stank stunk
stride strode stridden
strike struck stricken
string strung
sublet sublet subletting
sunburn sunburned sunburnt
swear swore sworn
sweep swept
swim swam swum swimming
swing swung
take took taken
teach taught
tell told
think thought
thrive thrived throve thriven
throw threw thrown
thrust thrust
toss tossed tost
typecast typecast
typeset typeset typesetting
typewrite typewrote typewritten
unbend unbent
unbind unbound
undergo undergoes underwent undergone
underlie underlay underlain underlying
underpay underpaid
undersell undersold
understand understood
undertake undertook undertaken
underwrite underwrote underwritten
undo undoes undid undone
unfreeze unfroze unfrozen
unmake unmade
unstick unstuck
unstring unstrung
unweave unwove unwoven
unwind unwound
uphold upheld
uppercut uppercut uppercutting
waylay waylaid
wear wore worn
weep wept
win won winning
withdraw withdrew withdrawn
withhold withheld
withstand withstood
work worked wrought
wring wrung
write wrote written
bias biased biassed biasing biassing
bus bused bussed busing bussing buses busses
canvas canvased canvassed canvasing canvassing
hobnob hobnobbed hobnobbing
humbug humbugged humbugging
monogram monogrammed monogramming
photoshop photoshopped photoshopping
sic sicced sicked siccing sicking
singe singed singeing
spec specced speccing specs
swinge swinged swingeing
whiz whizzed whizzing whizzes
court-martial court-martialed court-martialled court-martialing court-martialling
fee feeing
catsit catsat catsitting
dogsit dogsat dogsitting
housesit housesat housesitting
nosedive nosedived nosedove
outbuild outbuilt
reteach retaught
outswim outswam outswum outswimming
overbuild overbuilt
overbuy overbought
petsit petsat petsitting
preshrink preshrank preshrunk
regrow regrew regrown
rehang rehung
relearn relearned relearnt
relight relit relighted
reshoot reshot
resit resat resitting
resew resewed resewn
restring restrung
scubadive scubadived scubadove
skydive skydived skydove
troubleshoot troubleshot
whinge whinged whingeing whinging
sync synced synching syncing synched
zinc zinced zincked zincing zincking
""")

# Plurals; whoever uses the word knows it as a noun. No form: the plural is the word itself.
NOUNS = _table("""
alumna alumnae
alumnus alumni
aphis aphides
axis axes
bacillus bacilli
bacterium bacteria
bandit bandits banditti
basis bases
brother brothers brethren
calf calves
cherub cherubs cherubim
child children
cod cod cods
codex codices
datum data
deer deer deers
eland eland elands
elf elves
elk elk elks
encomium encomiums encomia
erratum errata
fez fezzes fezes
foot feet
formula formulas formulae
genie genies genii
genius geniuses genii
goose geese
graffito graffiti
half halves
hertz hertz
knife knives
labium labia
leaf leaves
life lives
loaf loaves
locus loci
louse lice
man men
madame mesdames
millennium millennia millenniums
mister messrs misters
moose moose
mouse mice
oasis oases
octopus octopuses octopi octopodes
ovum ova
ox oxen
passerby passersby
person people persons
phylum phyla
pike pike pikes
plaice plaice
rhinoceros rhinoceroses rhinoceros rhinoceri
scarf scarves scarfs
self selves
series series
sheaf sheaves
sheep sheep
shelf shelves
species species
squid squid squids
stimulus stimuli
swine swine swines
thief thieves
tooth teeth
trout trout trouts
vita vitae
wharf wharves wharfs
wife wives
wolf wolves
woman women
yourself yourselves
aircraft aircraft
hovercraft hovercraft
spacecraft spacecraft
watercraft watercraft
gallows gallows
headquarters headquarters
means means
crossroads crossroads
barracks barracks
chassis chassis
corps corps
rendezvous rendezvous
bourgeois bourgeois
mongoose mongooses mongeese
manservant menservants
womanservant womenservants
court-martial courts-martial court-martials
ski skis
runner-up runners-up runner-ups
cul-de-sac cul-de-sacs culs-de-sac
coup-d-etat coups-d-etat coup-d-etats
paparazzo paparazzi
apsis apsides
bijou bijoux bijous
effluvium effluvia effluviums
magus magi
binocular binoculars
electronic electronics
overall overalls
panino panini
tight tights
seraph seraphim seraphs
soma somata somas
yes yeses yesses
graffiti graffiti
spaghetti spaghetti
biscotto biscotti
timpano timpani
soliloquy soliloquies
colloquy colloquies
obloquy obloquies
stomach stomachs
monarch monarchs
patriarch patriarchs
matriarch matriarchs
epoch epochs
loch lochs
eunuch eunuchs
oligarch oligarchs
tech techs
czech czechs
""")

# Comparatives, superlatives and adverbs that no rule gives.
ADJECTIVES = _table("""
good better best
well better best
badly worse worst
ill worse worst
evil worse worst
little less lesser least littler littlest
many more most
late later latest latter last
fore foremost
in inner inmost innermost
out outer outmost outermost utmost uttermost
up upper upmost uppermost
polite politer politest
indoor indoors
outdoor outdoors
soon sooner soonest
yummy yummier yummiest
fun funner funnest
shy shyer shyest shier shiest
sly slyer slyest slier sliest
dry drier driest dryer dryest
wry wryer wryest wrier wriest
""")

# Nouns in -o that take -es, alone or beside -s; other nouns take -s alone.
O_ES = _set("""
echo embargo go hero potato tomato torpedo veto
""")
O_BOTH = _set("""
archipelago banjo bastinado bravado buffalo calico cargo commando dado desperado dingo domino
farrago fiasco flamingo fresco ghetto grotto halo hobo indigo innuendo jingo lasso lingo mango
manifesto memento mosquito motto mulatto no peccadillo portico stucco tobacco tornado tuxedo
virago volcano zero
""")

# Verbs of several syllables that always double their last consonant: it ends the stressed one.
STRESSED = _set("""
abet abhor abut acquit admit allot annul appal aver bedim befit befog beset besot bestir cabal
commit compel concur confer control debar debug defer defrag demur deter disbar disinter dispel
distil eavesdrop emit enrol enthral equip excel expel extol fulfil impel incur infer instal instil
inter lapel occur omit outwit overlap patrol permit prefer propel rebel rebut recommit recur refer
refit regret remit repel resit sidestep submit transfer transmit unbar unpin unplug unwrap unzip
""")

# Verbs that inflect by rule, but are none to the dictionary of lemminflect.
MORE_VERBS = _set("""
backpack bayonet birth blackboard boulder bullet butterfly canyon catnap chainsaw concert crib
demo favorite favourite flavor flavour garlic graffiti havoc honey hoof jewel kangaroo lantern leg
lipstick magic medal motorbike motorboat necklace nutmeg parent photo pipeline platform politic
racket rodeo romance scissor scooter shrimp snowball snowmobile squirrel stripe summit sunset symbol
toothbrush trampoline trial tricycle trowel tusk umpire unicycle waitress wheelbarrow wheelie
wiretap workshop yacht
""")

# Nouns that end in -man without being men.
NOT_MEN = _set("""
ataman brahman caiman cayman desman dolman german hetman human mussulman norman ottoman roman
shaman superhuman talisman toman turcoman
""")

# Both spellings are standard, the second often British.
SPELLINGS = _set("""
acknowledgment/acknowledgement adviser/advisor aging/ageing airplane/aeroplane aluminum/aluminium
analyze/analyse apologize/apologise appall/appal arbor/arbour ardor/ardour armor/armour
artifact/artefact ax/axe balk/baulk barbecue/barbeque behavior/behaviour caliber/calibre
candor/candour catalog/catalogue catalyze/catalyse center/centre clamor/clamour color/colour
counselor/counsellor cozy/cosy curb/kerb defense/defence dialog/dialogue disk/disc distill/distil
donut/doughnut encyclopedia/encyclopaedia endeavor/endeavour enroll/enrol enthrall/enthral
favor/favour favorite/favourite fervor/fervour fiber/fibre flavor/flavour fulfill/fulfil
glamor/glamour goiter/goitre gray/grey gynecologist/gynaecologist gypsy/gipsy harbor/harbour
hello/hallo hiccup/hiccough honor/honour humor/humour inquire/enquire inquiry/enquiry
install/instal instill/instil jeweler/jeweller jewelry/jewellery judgment/judgement ketchup/catsup
labor/labour license/licence liter/litre luster/lustre maneuver/manoeuvre marvelous/marvellous
meager/meagre medieval/mediaeval meter/metre mold/mould molt/moult mustache/moustache
naught/nought neighbor/neighbour neighborhood/neighbourhood odor/odour offense/offence ok/okay
omelet/omelette orthopedic/orthopaedic pajama/pyjama pajamas/pyjamas paralyze/paralyse
parlor/parlour pediatrician/paediatrician plow/plough practice/practise pretense/pretence
program/programme rancor/rancour rigor/rigour rumor/rumour saber/sabre savior/saviour savor/savour
scepter/sceptre sepulcher/sepulchre skeptic/sceptic skillful/skilful smolder/smoulder
snowplow/snowplough somber/sombre specter/spectre splendor/splendour succor/succour sulfur/sulphur
t-shirt/tee-shirt theater/theatre tidbit/titbit tire/tyre traveler/traveller tumor/tumour
valor/valour vapor/vapour veranda/verandah vigor/vigour whiskey/whisky willful/wilful
woolen/woollen woolly/wooly yogurt/yoghurt
""")

# What follows the head of a compound noun: mother-in-law, passer-by, attorney-general.
PARTICLES = _set("about at by de for in of off on out over to under up")
POSTPOSED = _set("""
apparent designate elect emeritus errant extraordinary general incarnate laureate major martial
patent politic presumptive proper public regent royal simple templar total
""")
RANKS = _set("brigadier colonel lieutenant major")  # lieutenant-generals, not lieutenants-general
