"""Shows images: the ensemble's errors, disputes, labels in doubt, examples, and the training images nearest to some.

A card's `picture` is the place of its image in the prepared dataset, such as `test/12`; `find_pictures` has them all.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from orchestrator.combine import gather, top_classes
from orchestrator.config import TARGET
from orchestrator.report.evidence import Evidence
from orchestrator.report.review import thumbnails
from orchestrator.report.sections import Card, Guess, Section
from orchestrator.text import counted
from workers.settings import OUT_OF_FOLD
from workers.storage import layout, parse_json, write_json

_MOST, _EXAMPLES, _TOP, _MOST_NAMED = 12, 5, 5, 4


def errors(evidence: Evidence) -> Section | None:
    """Shows the images with a wrong answer of which the ensemble is surest."""
    if (main := evidence.main) is None or not main.reading.place.any():
        return None
    wrong = np.flatnonzero(main.reading.place)
    rows = wrong[np.argsort(-main.reading.confidence[wrong], kind="stable")][:_MOST].tolist()
    note = f"Of {counted(len(wrong), 'wrong answer')} on {main.split}, the surest. Look at their labels too."
    return Section("errors", "The most confident errors", cards=_answered(evidence, main.split, rows), notes=(note,))


def disputed(evidence: Evidence) -> Section | None:
    """Shows the images on which most pairs of members disagree; of equal ones, those of which members are surest."""
    if (main := evidence.main) is None:
        return None
    votes, sure = (np.array([getattr(one, of) for one in main.readings.values()]) for of in ("guess", "confidence"))
    agreeing, cards = np.sum([(votes == own).sum(axis=0) for own in votes], axis=0), []
    rows = np.lexsort((-sure.mean(axis=0), agreeing))[:_MOST]
    for row in rows[agreeing[rows] < len(votes) ** 2].tolist():
        bars = []
        for vote, num in Counter(votes[:, row].tolist()).most_common(_TOP):
            who = [member for member, own in zip(main.readings, votes[:, row], strict=True) if own == vote]
            text = ", ".join(who) if num <= _MOST_NAMED else counted(num, "member")
            bars.append((f"{evidence.data.classes[vote]}: {text}", num / len(votes), vote))
        cards.append(_card(evidence, main.split, row, bars))
    note = f"Images of {main.split} on which most pairs of members disagree; bars are shares of the members."
    return Section("disputed", "What members disagree on most", cards=tuple(cards), notes=(note,)) if cards else None


def examples(evidence: Evidence) -> Section:
    """Shows a few images with the likeliest classes (Krizhevsky et al. 2012, figure 4, left)."""
    split = evidence.main.split if evidence.main else evidence.data.submitted
    num = evidence.combined[split].shape[0]
    cards = _answered(evidence, split, sorted({place * num // _EXAMPLES for place in range(_EXAMPLES)}))
    note = f"Evenly spaced in the order of {split}, whatever the ensemble makes of them."
    return Section("examples", "Some images, with guesses", cards=cards, notes=(note,))


def neighbours(evidence: Evidence) -> Section | None:
    """Shows the nearest training images that a worker found, of these weights and this data (figure 4, right)."""
    data, cards = evidence.data, []
    for member in evidence.plan.trained:
        with suppress(OSError, ValueError, KeyError):
            found = parse_json((evidence.paths.predictions(member) / layout.NEIGHBOURS).read_bytes())
            if found["of"] != [data.digest, evidence.predictions[member].about.checkpoint_sha256]:
                continue
            for image in found["images"]:
                near = []
                for row, name, label, far in image["nearest"]:
                    said = (data.classes[label], f"{far:.3g}")
                    near.append(Card(f"train/{row}", f"{name}, labelled {', distance '.join(said)}", said))
                cards.append(replace(_card(evidence, found["split"], image["row"], ()), others=tuple(near)))
            of = f"of {found['num_compared']:,} training images, by the input of {member}'s {found['layer']}"
            note = f"Below each image the nearest {of}: Euclidean distances, centre crops."
            return Section("neighbours", "Nearest training images", cards=tuple(cards), notes=(note,), card_width=12)
    return None


def doubtful(evidence: Evidence) -> Section | None:
    """Shows the training images whose label may be wrong, if members in folds predicted them."""
    if (review := evidence.review) is None:
        return None
    found, names = review.issues, evidence.data.classes
    asked = (found.suggestions, found.suggestion_probabilities, found.labels, found.label_probabilities)
    lines = zip(*(one[:_MOST].tolist() for one in (found.rows, *asked)), strict=True)
    cards = (_card(evidence, OUT_OF_FOLD, row, [(names[a], p, a), (names[b], q, b)]) for row, a, p, b, q in lines)
    return Section("doubtful", "Labels that may be wrong", cards=tuple(cards), notes=(review.line,))


def find_pictures(evidence: Evidence, sections: Sequence[Section]) -> dict[str, str]:
    """Returns the pictures of all places as data URIs: from the prepared dataset or, where it is gone, as last kept."""
    cards = [each for one in sections for card in one.cards for each in (card, *card.others)]
    places = sorted({card.picture for card in cards if not card.picture.startswith("data:")})
    digest, kept = evidence.data.digest, evidence.paths.report_pictures
    if found := thumbnails(evidence.record.stores.get(TARGET), digest, places):
        write_json(kept, {"digest": digest, "pictures": found})
    with suppress(OSError, ValueError):
        last = parse_json(kept.read_bytes())
        return dict(last["pictures"]) if last["digest"] == digest else {}
    return {}


def _answered(evidence: Evidence, split: str, rows: list[int]) -> tuple[Card, ...]:
    """Returns images with the ensemble's likeliest classes."""
    found, names = gather(evidence.combined[split], np.array(rows)), evidence.data.classes
    tops = zip(rows, found, top_classes(found, _TOP).tolist(), strict=True)
    bars = ((row, [(names[one], float(own[one]), one) for one in top]) for row, own, top in tops)
    return tuple(_card(evidence, split, *one) for one in bars)


def _card(evidence: Evidence, split: str, row: int, bars: Collection[tuple[str, float, int]]) -> Card:
    """Returns an image with its label, its name, and bars of a text, a share and a class."""
    own, classes = evidence.data.splits[split], evidence.data.classes
    label = None if own.labels is None else int(own.labels[row])
    lines = (*([] if label is None else [f"labelled {classes[label]}"]), own.rows[row])
    shown = tuple(Guess(text, share, right=one == label) for text, share, one in bars)
    spoken = ", ".join((*reversed(lines), *(f"{one.name} {one.probability:.0%}" for one in shown)))
    return Card(f"{'train' if split == OUT_OF_FOLD else split}/{row}", spoken, lines, shown)
