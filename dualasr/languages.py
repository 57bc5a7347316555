"""The 102 languages of FLEURS: names in FLEURS, in Whisper and in English, and scripts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from dualasr.errors import CorpusError

# Languages written without spaces between words, by their two- and three-letter codes: Chinese,
# Cantonese, Wu, Min Nan, Hakka, literary Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan,
# Dzongkha and Shan.
SPACELESS = frozenset(
    "zh zho cmn yue wuu nan hak lzh ja jpn th tha lo lao my mya km khm bo bod dz dzo shn".split()
)

# config, Whisper's tag (- where the 99 of large-v2 have none), script, name
_TABLE = """
af_za        af  Latn  Afrikaans
am_et        am  Ethi  Amharic
ar_eg        ar  Arab  Arabic
as_in        as  Beng  Assamese
ast_es       -   Latn  Asturian
az_az        az  Latn  Azerbaijani
be_by        be  Cyrl  Belarusian
bg_bg        bg  Cyrl  Bulgarian
bn_in        bn  Beng  Bengali
bs_ba        bs  Latn  Bosnian
ca_es        ca  Latn  Catalan
ceb_ph       -   Latn  Cebuano
ckb_iq       -   Arab  Sorani Kurdish
cmn_hans_cn  zh  Hans  Mandarin Chinese
cs_cz        cs  Latn  Czech
cy_gb        cy  Latn  Welsh
da_dk        da  Latn  Danish
de_de        de  Latn  German
el_gr        el  Grek  Greek
en_us        en  Latn  English
es_419       es  Latn  Spanish
et_ee        et  Latn  Estonian
fa_ir        fa  Arab  Persian
ff_sn        -   Latn  Fula
fi_fi        fi  Latn  Finnish
fil_ph       tl  Latn  Filipino
fr_fr        fr  Latn  French
ga_ie        -   Latn  Irish
gl_es        gl  Latn  Galician
gu_in        gu  Gujr  Gujarati
ha_ng        ha  Latn  Hausa
he_il        he  Hebr  Hebrew
hi_in        hi  Deva  Hindi
hr_hr        hr  Latn  Croatian
hu_hu        hu  Latn  Hungarian
hy_am        hy  Armn  Armenian
id_id        id  Latn  Indonesian
ig_ng        -   Latn  Igbo
is_is        is  Latn  Icelandic
it_it        it  Latn  Italian
ja_jp        ja  Jpan  Japanese
jv_id        jw  Latn  Javanese
ka_ge        ka  Geor  Georgian
kam_ke       -   Latn  Kamba
kea_cv       -   Latn  Kabuverdianu
kk_kz        kk  Cyrl  Kazakh
km_kh        km  Khmr  Khmer
kn_in        kn  Knda  Kannada
ko_kr        ko  Kore  Korean
ky_kg        -   Cyrl  Kyrgyz
lb_lu        lb  Latn  Luxembourgish
lg_ug        -   Latn  Ganda
ln_cd        ln  Latn  Lingala
lo_la        lo  Laoo  Lao
lt_lt        lt  Latn  Lithuanian
luo_ke       -   Latn  Luo
lv_lv        lv  Latn  Latvian
mi_nz        mi  Latn  Maori
mk_mk        mk  Cyrl  Macedonian
ml_in        ml  Mlym  Malayalam
mn_mn        mn  Cyrl  Mongolian
mr_in        mr  Deva  Marathi
ms_my        ms  Latn  Malay
mt_mt        mt  Latn  Maltese
my_mm        my  Mymr  Burmese
nb_no        no  Latn  Norwegian
ne_np        ne  Deva  Nepali
nl_nl        nl  Latn  Dutch
nso_za       -   Latn  Northern Sotho
ny_mw        -   Latn  Nyanja
oc_fr        oc  Latn  Occitan
om_et        -   Latn  Oromo
or_in        -   Orya  Odia
pa_in        pa  Guru  Punjabi
pl_pl        pl  Latn  Polish
ps_af        ps  Arab  Pashto
pt_br        pt  Latn  Portuguese
ro_ro        ro  Latn  Romanian
ru_ru        ru  Cyrl  Russian
sd_in        sd  Arab  Sindhi
sk_sk        sk  Latn  Slovak
sl_si        sl  Latn  Slovenian
sn_zw        sn  Latn  Shona
so_so        so  Latn  Somali
sr_rs        sr  Cyrl  Serbian
sv_se        sv  Latn  Swedish
sw_ke        sw  Latn  Swahili
ta_in        ta  Taml  Tamil
te_in        te  Telu  Telugu
tg_tj        tg  Cyrl  Tajik
th_th        th  Thai  Thai
tr_tr        tr  Latn  Turkish
uk_ua        uk  Cyrl  Ukrainian
umb_ao       -   Latn  Umbundu
ur_pk        ur  Arab  Urdu
uz_uz        uz  Latn  Uzbek
vi_vn        vi  Latn  Vietnamese
wo_sn        -   Latn  Wolof
xh_za        -   Latn  Xhosa
yo_ng        yo  Latn  Yoruba
yue_hant_hk  -   Hant  Cantonese
zu_za        -   Latn  Zulu
"""

# The new languages of arXiv 2406.07842. Cantonese has no tag either, but is not among them:
# large-v2 transcribes it as Chinese.
NINETEEN: tuple[str, ...] = tuple(
    "ast_es ceb_ph ff_sn lg_ug ig_ng ga_ie kea_cv kam_ke ky_kg luo_ke nso_za ny_mw or_in om_et"
    " ckb_iq umb_ao wo_sn xh_za zu_za".split()
)


@dataclass(frozen=True)
class FleursLanguage:
    """A language of FLEURS.

    Attributes:
        config: Its name in FLEURS, as `cmn_hans_cn`.
        code: Its name in this package, as `cmn`.
        name: Its English name.
        whisper: Its tag in Whisper large-v2, as `zh`; None without one.
        script: Its script by ISO 15924, as `Hans`.
        unit: What its error rate counts.
    """

    config: str
    code: str
    name: str
    whisper: str | None
    script: str
    unit: Literal["word", "character"]


def code_of(config: str) -> str:
    """Return the code of a FLEURS config, or of a folder named so: the name up to the first `_`."""
    return config.split("_")[0]


def _row(line: str) -> FleursLanguage:
    config, whisper, script, name = line.split(maxsplit=3)
    code = code_of(config)
    unit: Literal["word", "character"] = "character" if code in SPACELESS else "word"
    return FleursLanguage(config, code, name, None if whisper == "-" else whisper, script, unit)


# by config
LANGUAGES: dict[str, FleursLanguage] = {
    row.config: row for row in map(_row, _TABLE.strip().splitlines())
}
_BY_CODE = {language.code: language for language in LANGUAGES.values()}
_TAGS = {language.code: language.whisper for language in LANGUAGES.values() if language.whisper}


def language_of(config: str) -> FleursLanguage:
    """Return the language of a FLEURS config or of a code, as `ky_kg` or `ky`.

    Raises:
        CorpusError: FLEURS has no such language; the message offers the nearest names.
    """
    if found := LANGUAGES.get(config) or _BY_CODE.get(config):
        return found
    names = {
        name.lower(): language
        for language in LANGUAGES.values()
        for name in (language.config, language.name)
    }
    near = dict.fromkeys(
        names[name] for name in get_close_matches(config.lower().replace("-", "_"), names)
    )
    offer = ", ".join(f"{language.config} ({language.name})" for language in near)
    raise CorpusError(
        f"{config!r} is no language of FLEURS; "
        + (
            f"the nearest: {offer}."
            if offer
            else f"wanted one of its {len(LANGUAGES)} configs, as ky_kg."
        )
    )


def english_name(code: str) -> str:
    """Return the English name of a language of FLEURS, as `Kyrgyz` for `ky`; else the code."""
    return _BY_CODE[code].name if code in _BY_CODE else code


@lru_cache(maxsize=1024)
def codes_of(name: str) -> tuple[str, ...]:
    """Return the codes that a code of a language may stand for, in lower case.

    The first is the code itself. Then follow its standard forms, and shorter forms of both, without
    region or script: `zh-tw` and `zh` for `zh_TW`, `iw` and `he` for the older `iw`, `eng` and `en`
    for `eng`. The standard forms are those of the package `langcodes`.

    Args:
        name: A BCP 47 tag, with - or _ between its parts; case does not matter.
    """
    from langcodes import standardize_tag

    own = name.strip().lower().replace("_", "-")
    try:
        standard = standardize_tag(own).lower() if own else own
    except ValueError:  # it is no tag
        standard = own
    parts = [tag.split("-") for tag in (standard, own)]
    shorter = ["-".join(tag[:n]) for tag in parts for n in range(len(tag), 0, -1)]
    return tuple(dict.fromkeys([own, *shorter]))


def tag_among(language: str, tags: Iterable[str]) -> str | None:
    """Find the language tag of a Whisper that means a language.

    Args:
        language: Code of the language, as `cmn`, with or without region and script, as `zh-TW`.
        tags: The tags that the model has.

    Returns:
        The tag equal to the code, else Whisper's own tag for it, as `zh`, else such a tag for one
        of `codes_of(language)`; None if the model has none of them.
    """
    tags = list(tags)
    if language in tags:
        return language
    wanted = (tag for code in codes_of(language) for tag in (code, _TAGS.get(code)))
    return next((tag for tag in wanted if tag in tags), None)


def nearest(name: str, known: Collection[str]) -> str:
    """Return the few names that are most like an unknown one, with commas between them.

    Args:
        name: The unknown name.
        known: The names to choose from.
    """
    return ", ".join(get_close_matches(name.strip().lower(), known, n=3, cutoff=0.0))
