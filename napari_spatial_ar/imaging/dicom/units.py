"""Units in a DICOM header. They are free text there: only those listed here are ever shown."""

from __future__ import annotations

__all__ = ["known_unit"]

_NONE = {"", "1", "US", "NONE", "NO UNITS", "{}"}
_HOUNSFIELD = {"HU", "[HNSF'U]", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"}
_DEFINED_TERMS = {
    # Rescale Type, PS3.3 C.11.1.1.2
    *("OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"),
    # Units of a PET, PS3.3 C.8.9.1.1.3
    *("CNTS", "CM2", "CM2ML", "PCNT", "CPS", "BQML", "MGMINML", "UMOLMINML", "MLMING", "MLG"),
    *("1CM", "UMOLML", "PROPCNTS", "PROPCPS", "MLMINML", "MLML", "GML", "STDDEV"),
    # Dose Units, PS3.3 C.8.8.3
    *("GY", "RELATIVE"),
}
# Codes of real world values: UCUM, which is case-sensitive.
_UCUM = {
    *("%", "[ppm]", "[ppb]", "ppm", "rad", "deg", "s", "ms", "us", "min", "h", "/s", "1/s", "/ms"),
    *("1/ms", "/min", "1/min", "Hz", "kHz", "MHz", "m", "cm", "mm", "um", "nm", "cm2", "mm2"),
    *("m2", "um2", "ml", "mL", "l", "L", "ul", "uL", "cm3", "mm3", "1/cm", "/cm", "1/mm", "/mm"),
    *("m/s", "cm/s", "mm/s", "cm2/s", "mm2/s", "um2/s", "um2/ms", "10-6.mm2/s", "10*-6.mm2/s"),
    *("10-3.mm2/s", "10*-3.mm2/s", "mm2/s.10-3", "s/mm2", "ml/min", "mL/min", "ml/s", "mL/s"),
    *("ml/min/ml", "ml/ml/min", "ml/100ml/min", "mL/100mL/min", "ml/100g", "mL/100g"),
    *("ml/100g/min", "mL/100g/min", "ml/(100.g.min)", "ml/min/100g", "ml/g", "ml/min/g", "ml/ml"),
    *("g", "mg", "ug", "kg", "g/ml", "g/mL", "mg/ml", "mg/mL", "ug/ml", "ug/mL", "g/cm3", "mg/cm3"),
    *("kg/m3", "mmol", "mmol/l", "mmol/L", "umol/ml", "umol/mL", "umol/min/ml", "Bq", "kBq", "MBq"),
    *("Bq/ml", "Bq/mL", "kBq/ml", "kBq/mL", "MBq/ml", "MBq/mL", "Gy", "cGy", "mGy", "Gy/h", "Pa"),
    *("kPa", "mm[Hg]", "T", "mT", "uT", "J/kg", "keV", "eV", "{counts}", "{counts}/s", "cnts"),
    *("{SUVbw}g/ml", "{SUVlbm}g/ml", "{SUVbsa}cm2/ml", "{SUVibw}g/ml", "g/ml{SUVbw}"),
    *("g/ml{SUVlbm}", "cm2/ml{SUVbsa}", "g/ml{SUVibw}", "{ratio}", "{Z}", "{electrons}/cm3"),
}


def known_unit(text: str) -> str | None:
    """Look up the unit named in a header; None if it is not one of DICOM's.

    Parameters
    ----------
    text : str
        Value of Rescale Type, Units or Dose Units, or a code of Measurement Units.

    Returns
    -------
    str or None
        As it is displayed: "HU" for Hounsfield units whatever their name in the header, "" for no
        unit.
    """
    text = text.strip()
    if text in _UCUM:
        return text
    if text.upper() in _NONE:
        return ""
    if text.upper() in _HOUNSFIELD:
        return "HU"
    return text.upper() if text.upper() in _DEFINED_TERMS else None
