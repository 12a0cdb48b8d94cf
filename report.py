"""stub"""


def page(ledger, midi_dir):
    return ""
