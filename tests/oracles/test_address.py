"""Formal and informal address, on sentences whose address is plain to a reader."""

import pytest

from dinado_jax.oracles.address import ADDRESS, german_address, spanish_address
from dinado_jax.oracles.table import ORACLES, resolve

FORMAL, INFORMAL, NEITHER, BOTH = (True, False), (False, True), (False, False), (True, True)
GERMAN = [
    ("Are you sure? =", "Sind Sie sicher?", FORMAL),
    ("Can you help me? =", "Können Sie mir helfen?", FORMAL),
    ("I will send you the ticket. =", "Ich schicke Ihnen die Fahrkarte.", FORMAL),
    ("Is this your car? =", "Ist das Ihr Auto?", FORMAL),
    ("Your order has been shipped. =", "Ihre Bestellung wurde verschickt.", FORMAL),
    ("You have to wait. =", "Sie müssen warten.", FORMAL),
    ("Well, you have to wait. =", "Nun ja, Sie müssen warten.", FORMAL),
    ("Thank you for your patience. =", "Danke für Ihre Geduld.", FORMAL),
    ("Good morning. Your key, please. =", "Guten Morgen. Ihren Schlüssel, bitte.", FORMAL),
    ("Do you know my brother? =", "Kennen Sie meinen Bruder?", FORMAL),
    ("They asked whether you are ill. =", "Man fragte, ob Sie krank sind.", FORMAL),
    ("Are you sure? =", "Bist du sicher?", INFORMAL),
    ("Are you sure? =", "Bist Du sicher?", INFORMAL),
    ("Can you help me? =", "Kannst mir helfen?", INFORMAL),
    ("I will send you the ticket. =", "Ich schicke dir die Fahrkarte.", INFORMAL),
    ("Is this your car? =", "Ist das dein Auto?", INFORMAL),
    ("I saw you with your sister. =", "Ich habe dich mit deiner Schwester gesehen.", INFORMAL),
    ("Where are your children? =", "Wo sind eure Kinder?", INFORMAL),
    ("I will help you all. =", "Ich helfe euch.", INFORMAL),
    ("You should sleep. =", "Schlafen solltest du.", INFORMAL),
    ("Did you know that they won? =", "Wusstest du, dass sie gewonnen haben?", INFORMAL),
    ("Your mother called. =", "DEINE MUTTER HAT ANGERUFEN.", INFORMAL),
    ("You are wrong. =", "Ihr irrt euch.", INFORMAL),
    ("You have to go. =", "Ihr müsst gehen.", INFORMAL),
    ("You're tidy. =", "„Ihr seid ordentlich.“", INFORMAL),
    ("You two come with me. =", "Ihr beiden kommt mit.", INFORMAL),
    ("Have you eaten? =", "Habt ihr gegessen?", INFORMAL),
    ("I like your car. =", "Ihr Auto gefällt mir.", FORMAL),
    ("I like your new car. =", "Ihr neues Auto gefällt mir.", FORMAL),
    ("Do you know her dog? =", "Kennen Sie ihr Haus?", FORMAL),
    ("She knows her house. =", "Ihr Haus kennt sie.", NEITHER),
    ("They are here. =", "Sie sind hier.", NEITHER),
    ("She is tired. Her dog is, too. =", "Sie ist müde. Ihr Hund auch.", NEITHER),
    ("The dog sleeps. =", "Der Hund schläft.", NEITHER),
    ("I like her and them. =", "Ich mag sie und ihre Freunde.", NEITHER),
    ("He said: they lie. =", "Er sagte: „Sie lügen.“", NEITHER),
    ("Oh my gosh! =", "Du meine Güte!", NEITHER),
    ("Oh my gosh! Do you like it? =", "Du meine Güte! Mögen Sie das?", FORMAL),
    ("Are you sure, and do you have a key? =", "Sind Sie sicher, und hast du einen?", BOTH),
    ("", "", NEITHER),
]
SPANISH = [
    ("Are you sure? =", "¿Está usted seguro?", FORMAL),
    ("I saw you. =", "Los vi a ustedes.", FORMAL),
    ("Is he with you? =", "¿Está con Ud.?", FORMAL),
    ("Can you help me? =", "¿Puede ayudarme?", FORMAL),
    ("What is your name? =", "¿Cuál es su nombre?", FORMAL),
    ("I will give you the keys. =", "Le daré las llaves.", FORMAL),
    ("Excuse me, where is the hotel? =", "Disculpe, ¿dónde queda el hotel?", FORMAL),
    ("Tell me the number. =", "Dígame el número.", FORMAL),
    ("Wait a moment. =", "Espere un momento.", FORMAL),
    ("Let me see. =", "Permítame ver.", FORMAL),
    ("Do you want your coffee now? =", "¿Quiere su café ahora?", FORMAL),
    ("You should sleep. =", "Debería dormir.", FORMAL),
    ("Are you sure? =", "¿Estás seguro?", INFORMAL),
    ("Can you help me? =", "¿Puedes ayudarme?", INFORMAL),
    ("What is your name? =", "¿Cómo te llamas?", INFORMAL),
    ("What is your name? =", "¿Cuál es tu nombre?", INFORMAL),
    ("Is this for you? =", "¿Es para ti?", INFORMAL),
    ("I am going with you. =", "Voy contigo.", INFORMAL),
    ("Tell me the number. =", "Dime el número.", INFORMAL),
    ("Did you talk to them? =", "¿Hablaste con ellos?", INFORMAL),
    ("Did you eat? =", "¿Comiste?", INFORMAL),
    ("You will sing. =", "Cantarás.", INFORMAL),
    ("I want to see you. =", "Quiero verte.", NEITHER),  # too short to be told from parte
    ("I want to help you. =", "Quiero ayudarte.", INFORMAL),
    ("Where are your children? =", "¿Dónde están vuestros hijos?", INFORMAL),
    ("He lost his keys. =", "Perdió sus llaves.", NEITHER),
    ("He can help. =", "Puede ayudar.", NEITHER),
    ("It is sad that it exists. =", "Es triste que existe.", NEITHER),
    ("The dog sleeps. =", "El perro duerme.", NEITHER),
    ("I want more tea. =", "Quiero más té.", NEITHER),
    ("Good luck with the strong part. =", "Suerte con la parte fuerte.", NEITHER),
    ("Do you know her? =", "¿Usted conoce a tu madre?", BOTH),
    ("", "", NEITHER),
]


@pytest.mark.parametrize(("prompt", "text", "marks"), GERMAN)
def test_german(prompt, text, marks):
    assert german_address(prompt, text) == marks


@pytest.mark.parametrize(("prompt", "text", "marks"), SPANISH)
def test_spanish(prompt, text, marks):
    assert spanish_address(prompt, text) == marks


@pytest.mark.parametrize(("language", "sentences"), [("de", GERMAN), ("es", SPANISH)])
def test_an_oracle_wants_one_address_and_not_the_other(language, sentences):
    prompts, texts, marks = map(list, zip(*sentences))
    for name, wanted in (("formal", FORMAL), ("informal", INFORMAL)):
        oracle = resolve(f"{name}_{language}")
        assert oracle.built_in and oracle.function(prompts, texts) == [m == wanted for m in marks]
    assert set(ADDRESS) <= set(ORACLES)
