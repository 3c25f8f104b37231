"""Runs scenarios one by one: each is a function whose name is its sentence; a line a scenario, evidence of those that failed."""

import time
import traceback

import harness


def chosen(words, of):
    """Those of the scenarios that are to run."""
    return [one for one in of if not words or any(word in one.__name__ for word in words)]


def report(outcome, name, began, note=""):
    """Prints one line."""
    sentence = name.replace("_", " ")
    print(f"{outcome:4} {sentence} ({time.monotonic() - began:.1f} s{'; ' + note if note else ''})", flush=True)


def attempt(subject, scenario, saved):
    """Runs one scenario on its subject, which has an operator and can `save` its evidence below `saved`. Returns True when
    it passed."""
    began = time.monotonic()
    try:
        if subject.operator.process.poll() is not None:
            subject.operator.start()
        report("ok", scenario.__name__, began, scenario(subject) or "")
        return True
    except Exception as error:  # after any error the other scenarios must run and Docker must be cleaned
        report("FAIL", scenario.__name__, began)
        print(f"     {type(error).__name__}: {error}", flush=True)
        folder = saved / scenario.__name__
        try:
            subject.save(folder)
            (folder / "trace.txt").write_text(traceback.format_exc(), encoding="utf-8")
            print(f"     kept: {folder.relative_to(harness.ROOT)}", flush=True)
        except (harness.Failed, OSError) as problem:
            print(f"     nothing could be kept: {problem}", flush=True)
        return False
