"""Special words of coco-caption's tokenizer (Stanford CoreNLP 3.4.1), found by testing many words."""

# Keep their period, case-insensitive: Mr. etc.
ABBREVIATIONS = """
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen
gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep
reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
"""

# Also keep it, and are split from a following single character: etc.x
FINAL_ABBREVIATIONS = """
al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est
etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev
nov oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
"""

# The same, but only capitalised or in capitals.
CAPITAL_ABBREVIATIONS = "ark az del ill la mass miss ore pa tex wash"

# Keep their period before a number: No. 5
NUMBER_ABBREVIATIONS = "art ca figs fig nos no op pp prop"

# Capitalised after a single letter and a period, these start a new sentence: vitamin B. The
SENTENCE_STARTS = """
a about according after an as at additionally but earlier he here her however if in it last many more now once
one other our she since some so such that the their then there these they this we what when while yet you
"""

# Contractions, split before the last two or three letters.
ASSIMILATIONS = {"cannot": 3, "gonna": 2, "gotta": 2, "lemme": 2, "gimme": 2, "wanna": 2}

# One token each; ' is any apostrophe.
APOSTROPHE_WORDS = "dunkin' somethin' ol' 'em 'cause 'till 'til cap'n c'est"

# One token each, case-insensitive; & may be written &amp;
SPECIAL_WORDS = """
-rrb- -lrb- -rcb- -lcb- -rsb- -lsb- c.d.s pro- anti- s&p-500 s&ls c++ c# f# c'mon ev'ry nor'easter e'er
s'mores li'l nat'l cont'd.
"""

FILE_ENDINGS = """
html htm h java jpeg jpg jar class cgi cpp c docx doc dll bat bmp exe gif gz mov mp3 pdf php png ppt pl ps py
sql tar txt wav xml x zip
"""
