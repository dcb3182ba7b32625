"""Agreement of pseudo-labels with the truth by hand, and pictures that say what they should."""

import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from orchestrator.pseudo_label_report import COLOURS, SHOWN, Agreement, agreement, draw_embeddings

EMBED = np.random.default_rng(0).normal(size=(60, 16))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, so that a test can read them without eyes."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def watched(self: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)
    return drawn


def draw(label_text_N: list[str], truth_N: list[str] | None = None, title: str = "fan section 00") -> bytes:
    cluster_N = np.unique(label_text_N, return_inverse=True)[1]
    return draw_embeddings(EMBED[: len(label_text_N)], cluster_N, label_text_N, truth_N, title)


def legend_of(figure: Figure, panel: int = 0) -> Any:
    return figure.axes[panel].get_legend()


def entries(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text().strip() for text in legend_of(figure, panel).get_texts()]


def colours(figure: Figure, panel: int = 0) -> dict[str, str]:
    names = [entry.rsplit(":", 1)[0] for entry in entries(figure, panel)]
    return dict(zip(names, [line.get_color() for line in legend_of(figure, panel).legend_handles], strict=True))


# --- agreement -------------------------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    """Pairs: 2 together in both, 2 in the found and 3 in the true groups, 6 in all.

    ARI = (1 - 2 * 3 / 6) / ((2 + 3) / 2 - 1) for the three-one split against the two-two split: pairs together in both
    1, expected 3 * 2 / 6 = 1, so 0. NMI: I = 0.2158, H = 0.6931 and 0.5623 nats, twice I over their sum 0.3437.
    """
    found = agreement([0, 0, 1, 1], ["a", "a", "a", "b"])
    assert found.ari == pytest.approx(0)
    assert found.nmi == pytest.approx(0.34371, abs=1e-5)


def test_names_do_not_matter() -> None:
    assert agreement([5, 5, 2, 2, 9], ["x", "x", "y", "y", "z"]) == Agreement(1.0, 1.0)


def test_one_group_says_nothing() -> None:
    assert agreement([0] * 6, ["a", "a", "b", "b", "c", "c"]) == Agreement(0.0, 0.0)


@pytest.mark.parametrize(("found", "truth"), [([], []), ([1, 2], ["a"])])
def test_agreement_needs_one_of_each(found: list[int], truth: list[str]) -> None:
    with pytest.raises(ValueError, match="one of each a clip"):
        agreement(found, truth)


# --- the picture -----------------------------------------------------------------------------------------------------


def test_it_is_a_png_with_ink() -> None:
    picture = draw(["0", "1"] * 30)
    assert picture.startswith(b"\x89PNG")
    pixels = imread(io.BytesIO(picture))
    assert min(pixels.shape[:2]) > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_the_same_input_gives_the_same_bytes() -> None:
    labels, truth = [str(n % 5) for n in range(60)], [str(n % 4) for n in range(60)]
    assert draw(labels, truth) == draw(labels, truth)


def test_panels_titles_and_axes(figures: list[Figure]) -> None:
    draw(["0", "1"] * 30)
    draw(["0", "1"] * 30, ["fast", "slow"] * 30)
    one, two = figures
    assert [axes.get_title() for axes in one.axes] == ["Pseudo-labels"]
    assert two.axes[1].get_title() == "True attributes (never trained on): ARI 1.00, NMI 1.00"
    assert one.get_suptitle() == "fan section 00: 60 training clips"
    for axes in (*one.axes, *two.axes):
        assert axes.get_xlabel().startswith("principal component 1 (")
        assert axes.get_ylabel().startswith("principal component 2 (")
        assert sum(np.asarray(points.get_offsets()).shape[0] for points in axes.collections) == 60


def test_shares_of_variance_by_hand(figures: list[Figure]) -> None:
    """Along x the variance is 9 times that along y: 90 % and 10 %."""
    square = np.array([[3.0, 1], [3, -1], [-3, 1], [-3, -1]])
    draw_embeddings(square, [0] * 4, ["0"] * 4, None, "square")
    (axes,) = figures[0].axes
    assert "(90% of the variance)" in axes.get_xlabel()
    assert "(10% of the variance)" in axes.get_ylabel()
    np.testing.assert_allclose(np.abs(axes.collections[0].get_offsets()), np.abs(square))


def test_the_legend_is_in_natural_order_and_counts_clips_and_clusters(figures: list[Figure]) -> None:
    labels = ["10"] * 20 + ["2+3"] * 25 + ["2"] * 15
    draw_embeddings(EMBED, [0] * 20 + [1] * 10 + [2] * 15 + [3] * 15, labels, None, "fan")
    assert entries(figures[0]) == ["2: 15", "2+3: 25 (2 clusters)", "10: 20"]
    assert legend_of(figures[0]).get_title().get_text() == "3 label sets: number of clips"


def test_a_true_attribute_has_the_colour_of_its_label_set(figures: list[Figure]) -> None:
    """In an order that is not that of the legend; the attribute without a set of its own looks like none of them."""
    labels = ["0"] * 20 + ["1"] * 20 + ["2"] * 20
    truth = ["z"] * 20 + ["a"] * 20 + ["m"] * 15 + ["q"] * 5
    draw(labels, truth)
    found, true = colours(figures[0]), colours(figures[0], 1)
    assert (true["z"], true["a"], true["m"]) == (found["0"], found["1"], found["2"])
    assert true["q"] not in found.values()


def test_only_the_largest_groups_have_a_style(figures: list[Figure]) -> None:
    """Twenty groups, 0 to 19, of which the last four have two clips each and the others more."""
    sizes = [4, 3, 3, 3] + [3] * 12 + [2] * 4
    labels = [str(n) for n, size in enumerate(sizes) for _ in range(size)]
    draw_embeddings(np.random.default_rng(0).normal(size=(len(labels), 3)), [0] * len(labels), labels, None, "many")
    shown = entries(figures[0])
    assert shown[:2] == ["0: 4", "1: 3"]
    assert shown[-1] == "4 smaller groups: 8"
    assert len(shown) == SHOWN + 1
    looks = {(handle.get_color(), handle.get_marker()) for handle in legend_of(figures[0]).legend_handles}
    assert len(looks) == SHOWN + 1


def test_odd_names_are_written_as_they_are(figures: list[Figure]) -> None:
    """Dollar signs are no formula, an underscore hides nothing, and a long name is cut in its middle."""
    long = "+".join(str(n) for n in range(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(["_x", "a$b^$c", long] * 20, title="$x$_1")
    shown = entries(figures[0])
    assert shown[0] == "0+1+2+3+4+5+6+7+…+13+14+15: 20"
    assert set(shown[1:]) == {"_x: 20", r"a\$b^\$c: 20"}


@pytest.mark.parametrize("embed", [np.ones((1, 4)), np.ones((5, 1)), np.zeros((8, 3)), np.arange(6.0)[:, None]])
def test_flat_spaces_are_drawn_without_a_warning(embed: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw_embeddings(embed, [0] * len(embed), ["0"] * len(embed), ["a"] * len(embed), "flat")
    assert picture.startswith(b"\x89PNG")


def test_the_palette_stays_apart_for_colour_blind_eyes() -> None:
    """Simulated protanopia and deuteranopia (Viénot 1999): no two colours are nearer than in Okabe and Ito's own."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS]) ** 2.2
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    for kind, matrix in blind.items():
        seen = np.clip(rgb @ (np.linalg.inv(to_lms) @ matrix @ to_lms).T, 0, 1) ** (1 / 2.2)
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(COLOURS), 1)]
        assert gaps.min() > 0.14, kind


def test_importing_the_report_does_not_import_matplotlib_nor_does_drawing_use_pyplot() -> None:
    code = (
        "import sys, orchestrator.pseudo_label_report as r\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r.draw_embeddings([[0., 1], [1, 0]], [0, 0], ['0', '0'], None, 't')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
