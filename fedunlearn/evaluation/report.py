"""stub for now"""


def render_report(results, evidence):
    return ""
