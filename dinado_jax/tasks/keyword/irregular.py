"""English words that do not inflect by rule, one per line: the word and its irregular forms.

Facts of the language, as learners' dictionaries list them in their appendices of irregular verbs
and plurals; British and American forms stand side by side. Regular forms are listed too where a
word has both (learned, learnt), since what is listed here replaces what the rules would give.
"""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """word -> its other forms, of lines "word form form"."""
    return {word: tuple(rest) for word, *rest in map(str.split, text.strip().splitlines())}


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Past tenses and participles; -s and -ing follow by rule unless they are listed.
VERBS = _table("""
abide abode abided
alight alighted alit
arise arose arisen
awake awoke awoken awaked
babysit babysat babysitting
backbite backbit backbitten
backslide backslid backslidden
be am is are was were been being
bear bore borne born
beat beat beaten
become became become
befall befell befallen
beget begot begat begotten begetting
begin began begun beginning
behold beheld
bend bent
bereave bereaved bereft
beseech besought beseeched
beset beset besetting
bespeak bespoke bespoken
bestride bestrode bestridden
bet bet betted betting
betake betook betaken
bid bid bade bidden bidding
bind bound
bite bit bitten
bleed bled
blend blended blent
bless blessed blest
blow blew blown
bottle-feed bottle-fed
break broke broken
breastfeed breastfed
breed bred
bring brought
broadcast broadcast broadcasted
browbeat browbeat browbeaten
build built
burn burned burnt
burst burst bursted
bust busted bust
buy bought
can could canned canning
cast cast
catch caught
chide chid chided chidden
choose chose chosen
cleave cleft clove cleaved cloven
cling clung
clothe clothed clad
come came come
cost cost costed
creep crept
crossbreed crossbred
crow crowed crew
cut cut cutting
deal dealt
dig dug digging
dive dived dove
do does did done
draw drew drawn
dream dreamed dreamt
drink drank drunk
drip-feed drip-fed
drive drove driven
dwell dwelt dwelled
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
fly flew flown flied
forbear forbore forborne
forbid forbade forbad forbidden forbidding
force-feed force-fed
forecast forecast forecasted
forego forewent foregone
foreknow foreknew foreknown
foresee foresaw foreseen
foretell foretold
forget forgot forgotten forgetting
forgive forgave forgiven
forgo forwent forgone forgoes
forsake forsook forsaken
forswear forswore forsworn
freeze froze frozen
gainsay gainsaid
get got gotten getting
ghostwrite ghostwrote ghostwritten
gild gilded gilt
gird girded girt
give gave given
go goes went gone
grave graved graven
grind ground
grow grew grown
hamstring hamstrung
handwrite handwrote handwritten
hang hung hanged
have has had
hear heard
heave heaved hove
hew hewed hewn
hide hid hidden
hit hit hitting
hold held
hurt hurt
inlay inlaid
input input inputted inputting
inset inset insetted insetting
interbreed interbred
interweave interwove interwoven interweaved
jigsaw jigsawed jigsawn
keep kept
kneel knelt kneeled
knit knit knitted knitting
know knew known
lade laded laden
lay laid
lead led
lean leaned leant
leap leaped leapt
learn learned learnt
leave left
lend lent
let let letting
lie lay lain lied lying
light lit lighted
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
misspell misspelled misspelt
misspend misspent
mistake mistook mistaken
misunderstand misunderstood
moonlight moonlighted moonlit
mow mowed mown
offset offset offsetting
outbid outbid outbidden outbidding
outdo outdoes outdid outdone
outfight outfought
outgrow outgrew outgrown
outlay outlaid
output output outputted outputting
outride outrode outridden
outrun outran outrun outrunning
outsell outsold
outshine outshone outshined
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
overrun overran overrun overrunning
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
plead pleaded pled
prepay prepaid
proofread proofread
prove proved proven
put put putting
quit quit quitted quitting
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
rerun reran rerun rerunning
resell resold
resend resent
reset reset resetting
retake retook retaken
retell retold
rethink rethought
rewind rewound
rewrite rewrote rewritten
rid rid ridded ridding
ride rode ridden
ring rang rung ringed
rise rose risen
rive rived riven
roughcast roughcast
run ran run running
saw sawed sawn
say said
see saw seen
seek sought
self-destruct self-destructed
sell sold
send sent
set set setting
sew sewed sewn
shake shook shaken
shall should
shave shaved shaven
shear sheared shorn
shed shed shedding
shine shone shined
shit shit shat shitted shitting
shoe shod shoed shodden shoeing
shoot shot
show showed shown
shred shredded shred shredding
shrink shrank shrunk shrunken
shrive shrove shriven shrived
shut shut shutting
sight-read sight-read
sightsee sightsaw sightseen sightseeing
sing sang sung
sink sank sunk sunken
sit sat sitting
slay slew slain slayed
sleep slept
sleepwalk sleepwalked
slide slid slidden
sling slung
slink slunk
slit slit slitted slitting
smell smelled smelt
smite smote smitten
sneak sneaked snuck
sow sowed sown
speak spoke spoken
speed sped speeded
spell spelled spelt
spend spent
spill spilled spilt
spin spun span spinning
spit spat spit spitting
split split splitting
spoil spoiled spoilt
spoon-feed spoon-fed
spotlight spotlighted spotlit
spread spread
spring sprang sprung
stand stood
stave staved stove
steal stole stolen
stick stuck
sting stung
stink stank stunk
strew strewed strewn
stride strode stridden
strike struck stricken
string strung
strive strove striven strived
sublet sublet subletting
sunburn sunburned sunburnt
swear swore sworn
sweat sweated sweat
sweep swept
swell swelled swollen
swim swam swum swimming
swing swung
take took taken
teach taught
tear tore torn teared
telecast telecast telecasted
tell told
think thought
thrive thrived throve thriven
throw threw thrown
thrust thrust
toss tossed tost
tread trod trodden treaded
typecast typecast
typeset typeset typesetting
typewrite typewrote typewritten
unbend unbent
unbind unbound
undercut undercut undercutting
undergo undergoes underwent undergone
underlie underlay underlain underlying
underpay underpaid
undersell undersold
understand understood
undertake undertook undertaken
underwrite underwrote underwritten
undo undoes undid undone
unfreeze unfroze unfrozen
unlearn unlearned unlearnt
unmake unmade
unstick unstuck
unstring unstrung
unweave unwove unwoven
unwind unwound
uphold upheld
uppercut uppercut uppercutting
upset upset upsetting
wake woke woken waked
waylay waylaid
wear wore worn
weave wove woven weaved
wed wed wedded wedding
weep wept
wet wet wetted wetting
whet whetted whetting
will would willed willing
win won winning
wind wound winded
withdraw withdrew withdrawn
withhold withheld
withstand withstood
work worked wrought
wring wrung
write wrote written
age aged ageing aging
benefit benefited benefitted benefiting benefitting
bias biased biassed biasing biassing
bus bused bussed busing bussing buses busses
canvas canvased canvassed canvasing canvassing
combat combated combatted combating combatting
diagram diagrammed diagramed diagramming diagraming
dye dyed dyeing
eye eyed eyeing eying
focus focused focussed focusing focussing focuses focusses
format formatted formatting
gas gassed gassing gases gasses
handicap handicapped handicapping
hiccup hiccuped hiccupped hiccuping hiccupping
hobnob hobnobbed hobnobbing
humbug humbugged humbugging
kidnap kidnapped kidnaped kidnapping kidnaping
leapfrog leapfrogged leapfrogging
monogram monogrammed monogramming
outfit outfitted outfitting
photoshop photoshopped photoshopping
program programmed programed programming programing
queue queued queuing queueing
quiz quizzed quizzing quizzes
retrofit retrofitted retrofitting
sic sicced sicked siccing sicking
singe singed singeing
ski skied skiing
spec specced speccing specs
swinge swinged swingeing
taxi taxied taxiing taxying taxis taxies
tinge tinged tingeing tinging
tiptoe tiptoed tiptoeing
transmit transmitted transmitting
whiz whizzed whizzing whizzes
worship worshipped worshiped worshipping worshiping
blog blogged blogging
vlog vlogged vlogging
court-martial court-martialed court-martialled court-martialing court-martialling
fee feeing
binge binged bingeing binging
catsit catsat catsitting
cue cued cueing cuing
dogsit dogsat dogsitting
housesit housesat housesitting
nosedive nosedived nosedove
outbuild outbuilt
reteach retaught
outswim outswam outswum outswimming
overbuild overbuilt
overbuy overbought
petsit petsat petsitting
preset preset presetting
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
zigzag zigzagged zigzagging
arc arced arcked arcing arcking
sync synced synching syncing synched
zinc zinced zincked zincing zincking
""")

# Plurals; whoever uses the word knows it as a noun. No form: the plural is the word itself.
NOUNS = _table("""
addendum addenda addendums
alga algae algas
alumna alumnae
alumnus alumni
analysis analyses
antelope antelopes
antenna antennae antennas
antithesis antitheses
apex apexes apices
aphis aphides
appendix appendices appendixes
aquarium aquariums aquaria
arboretum arboretums arboreta
atlas atlases
automaton automata automatons
axis axes
ax axes
axe axes
bacillus bacilli
bacterium bacteria
bandit bandits banditti
basis bases
beef beefs beeves
bison bison bisons
brother brothers brethren
bus buses busses
cactus cacti cactuses
calf calves
carp carp carps
catharsis catharses
cherub cherubs cherubim
child children
chrysalis chrysalises chrysalides
cod cod cods
codex codices
colloquium colloquiums colloquia
compendium compendiums compendia
concerto concertos concerti
consortium consortia consortiums
corpus corpora corpuses
crisis crises
criterion criteria criterions
curriculum curricula curriculums
datum data
deer deer deers
diagnosis diagnoses
die dice dies
dogma dogmas dogmata
dwarf dwarfs dwarves
eland eland elands
elf elves
elk elk elks
ellipsis ellipses
emphasis emphases
emporium emporiums emporia
encomium encomiums encomia
equilibrium equilibria equilibriums
erratum errata
fauna faunas faunae
fez fezzes fezes
fish fish fishes
flora floras florae
flounder flounder flounders
focus foci focuses
foot feet
formula formulas formulae
forum forums fora
fowl fowl fowls
fungus fungi funguses
gas gases gasses
genesis geneses
genie genies genii
genius geniuses genii
genus genera genuses
gladiolus gladioli gladioluses
goose geese
graffito graffiti
grouse grouse grouses
gymnasium gymnasiums gymnasia
haddock haddock haddocks
half halves
handkerchief handkerchiefs handkerchieves
hertz hertz
hippopotamus hippopotamuses hippopotami
honorarium honorariums honoraria
hoof hooves hoofs
hypothesis hypotheses
index indices indexes
iris irises irides
kerchief kerchiefs kerchieves
knife knives
labium labia
larva larvae larvas
leaf leaves
libretto librettos libretti
life lives
loaf loaves
locus loci
louse lice
man men
mackerel mackerel mackerels
madame mesdames
matrix matrices matrixes
maximum maxima maximums
medium media mediums
memorandum memoranda memorandums
metamorphosis metamorphoses
millennium millennia millenniums
minimum minima minimums
minnow minnows minnow
mister messrs misters
moose moose
momentum momenta momentums
moratorium moratoriums moratoria
mouse mice
narcissus narcissi narcissuses
nebula nebulae nebulas
neurosis neuroses
nucleus nuclei nucleuses
oasis oases
octopus octopuses octopi octopodes
offspring offspring offsprings
opus opuses opera
ovum ova
ox oxen
papyrus papyri papyruses
paralysis paralyses
parenthesis parentheses
passerby passersby
penny pennies pence
person people persons
phenomenon phenomena phenomenons
phylum phyla
pike pike pikes
plaice plaice
planetarium planetariums planetaria
podium podiums podia
polyhedron polyhedra polyhedrons
prognosis prognoses
psychosis psychoses
pupa pupae pupas
quarry quarries
quiz quizzes
quorum quorums
radius radii radiuses
referendum referendums referenda
rhinoceros rhinoceroses rhinoceros rhinoceri
roof roofs rooves
salmon salmon salmons
sanatorium sanatoriums sanatoria
scarf scarves scarfs
self selves
series series
sheaf sheaves
sheep sheep
shelf shelves
shrimp shrimp shrimps
species species
spectrum spectra spectrums
squid squid squids
staff staffs staves
stadium stadiums stadia
stigma stigmata stigmas
stimulus stimuli
stratum strata stratums
swine swine swines
syllabus syllabi syllabuses
symposium symposia symposiums
synopsis synopses
synthesis syntheses
tempo tempos tempi
terminus termini terminuses
terrarium terrariums terraria
thesaurus thesauri thesauruses
thesis theses
thief thieves
tooth teeth
trout trout trouts
tuna tuna tunas
turf turfs turves
ultimatum ultimatums ultimata
uterus uteri uteruses
vacuum vacuums vacua
vertebra vertebrae vertebras
vertex vertices vertexes
virtuoso virtuosos virtuosi
vita vitae
vortex vortices vortexes
wharf wharves wharfs
whiz whizzes
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
passer-by passers-by
runner-up runners-up runner-ups
cul-de-sac cul-de-sacs culs-de-sac
aide-de-camp aides-de-camp
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
money moneys monies
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
bad worse worst
badly worse worst
ill worse worst
evil worse worst
far farther farthest further furthest
little less lesser least littler littlest
many more most
much more most
old older oldest elder eldest
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
spry spryer spryest sprier spriest
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
