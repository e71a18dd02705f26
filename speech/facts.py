"""Facts about the TIMIT corpus: phones, their folding to 39 classes, speaker lists, sampling.

The order of `PHONES_61` and `PHONES_39` is the order of the class indices everywhere in this
project, silence first. The folding is that of Graves (2012, PhD thesis), with the glottal stop
`q` counted as silence. The 24 core-test speakers are those of TIMIT's own documentation; the 50
development speakers are the set used since Halberstadt (1998).
"""

SPLITS = ("train", "develop", "test")

SAMPLE_RATE_HZ = 16000
FRAME_LENGTH_SAMPLES = 400  # 25 ms
FRAME_HOP_SAMPLES = 160  # 10 ms
FRAME_HOP_MS = 1000 * FRAME_HOP_SAMPLES / SAMPLE_RATE_HZ

PHONES_61 = tuple("""
    h# aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl
    hh hv ih ix iy jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z
    zh
    """.split())

PHONES_39 = tuple("""
    sil aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th
    uh uw v w y z
    """.split())

_FOLDED = {  # reduced phone: the phones of the 61 that fold into it
    "sil": "h# bcl dcl epi gcl kcl pau pcl q tcl",
    "aa": "ao",
    "ah": "ax ax-h",
    "er": "axr",
    "l": "el",
    "m": "em",
    "n": "en nx",
    "ng": "eng",
    "hh": "hv",
    "ih": "ix",
    "uw": "ux",
    "sh": "zh",
}
FOLD_61_TO_39 = {phone: phone for phone in PHONES_61} | {
    phone: reduced for reduced, phones in _FOLDED.items() for phone in phones.split()
}

BROAD_CLASSES = {  # of PHONES_39
    "vowels": "aa ae ah aw ay eh er ey ih iy ow oy uh uw",
    "stops": "b d g p t k dx",
    "affricates": "ch jh",
    "fricatives": "dh f hh s sh th v z",
    "nasals": "m n ng",
    "liquids and glides": "l r w y",
    "silence": "sil",
}

CORE_TEST_SPEAKERS = frozenset("""
    dr1/felc0 dr1/mdab0 dr1/mwbt0 dr2/fpas0 dr2/mtas1 dr2/mwew0 dr3/fpkt0 dr3/mjmp0
    dr3/mlnt0 dr4/fjlm0 dr4/mlll0 dr4/mtls0 dr5/fnlp0 dr5/mbpm0 dr5/mklt0 dr6/fmgd0
    dr6/mcmj0 dr6/mjdh0 dr7/fdhc0 dr7/mgrt0 dr7/mnjm0 dr8/fmld0 dr8/mjln0 dr8/mpam0
    """.split())

DEVELOP_SPEAKERS = frozenset("""
    dr1/faks0 dr1/fdac1 dr1/fjem0 dr1/mjsw0 dr1/mreb0 dr2/mgwt0 dr2/mjar0 dr2/mmdb1
    dr2/mmdm2 dr2/mpdf0 dr3/fcmh0 dr3/fkms0 dr3/mbdg0 dr3/mbwm0 dr3/mcsh0 dr3/mgjf0
    dr3/mglb0 dr3/mmjr0 dr3/mmwh0 dr3/mrtk0 dr3/mtaa0 dr3/mtdt0 dr3/mthc0 dr3/mwjg0
    dr4/fadg0 dr4/fdms0 dr4/fedw0 dr4/fgjd0 dr4/fjmg0 dr4/fnmr0 dr4/frew0 dr4/fsem0
    dr4/mbns0 dr4/mdls0 dr4/mroa0 dr4/mteb0 dr5/fcal1 dr5/fmah0 dr5/mrws1 dr6/fdrw0
    dr6/mjfc0 dr6/mrjr0 dr7/fmml0 dr7/mdlf0 dr7/mdvc0 dr7/mers0 dr7/mrcs0 dr7/mrjm4
    dr8/fjsj0 dr8/majc0
    """.split())

# The NLTK sample has no train/test split of its own: this one is the project's.
SAMPLE_DEVELOP_SPEAKERS = frozenset("dr3/falk0 dr6/mbma1 dr8/fbcg1".split())
SAMPLE_TEST_SPEAKERS = frozenset("dr1/mcpm0 dr4/falr0 dr7/madd0".split())
