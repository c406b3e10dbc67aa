"""The report page and its pictures: self-contained, safe, true to the arrays, whatever the run."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from eo_jax.monitor.metric import Card, Metric
from eo_jax.monitor.metrics import step_metrics
from eo_jax.report import html_page, pictures
from eo_jax.report.page import Report, render
from eo_jax.report.patches import Bands, PatchView
from eo_jax.report.predictions import Example, Predictions
from eo_jax.sensors import ENMAP, Band, Sensor, get_sensor

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "br"}
METRICS = step_metrics(
    {
        "feature_std": Metric("Spread of features; 0 is collapse", "std"),
        "accuracy": Metric("", "accuracy"),
    }
)


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on a tag that is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.links, self.texts = [], [], [], []
        self.images: dict[str, np.ndarray] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs.items() if name in ("src", "href", "xlink:href")
        ]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            data = base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,"))
            self.images[attrs["alt"]] = np.asarray(Image.open(io.BytesIO(data)))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def make_patch(title="tile", size=32, token=8, seed=0) -> PatchView:
    rng = np.random.default_rng(seed)
    original = rng.uniform(0.02, 0.5, (size, size, len(ENMAP.bands))).astype(np.float32)
    grid = size // token
    masked = np.kron(
        rng.permutation(grid * grid).reshape(grid, grid) % 4 > 0, np.ones((token, token), bool)
    )
    tokens = rng.normal(size=(grid, grid, 16)).astype(np.float32)
    return PatchView(
        title, original, np.full_like(original, 0.26), masked, np.ones((size, size), bool), tokens
    )


def make_predictions(names=None, label="landuse", title="tile") -> Predictions:
    """Two of three classes occur: 8 of 10 and 1 of 2 are right."""
    counts = np.array([[8, 0, 2], [0, 0, 0], [1, 0, 1]])
    truth = np.array([[0, 1], [1, 3]])
    maps = Example(title, np.zeros((2, 2, 3), np.uint8), truth, np.array([[1, 1], [3, 3]]))
    chip = Example(title, np.zeros((2, 2, 3), np.uint8), np.array([[3]]), np.array([[1]]))
    return Predictions("test", label, names or {1: "water", 3: "wood"}, counts, [maps, chip])


def make_report(**changes) -> Report:
    lines = [
        {
            "step": step,
            "loss": 2.0 - step / 100,
            "lr": 1e-4,
            "samples_per_s": 400.0,
            "grad_norm": 1.0,
        }
        for step in range(0, 100, 10)
    ]
    lines[-1] |= {"eval/knn/accuracy": 0.625, "eval/collapse/rankme": 12.5}
    report = Report(
        title="EnMAP MAE",
        cards=[Card("RMSE", "0.0123", "reflectance; mean of the visible tokens 0.0311")],
        lines=lines,
        metrics=METRICS,
        scores={"knn/accuracy": Metric("Overall accuracy")},
        patches=[make_patch()],
        bands=Bands(ENMAP, np.ones(len(ENMAP.bands), bool)),
        predictions=None,
        config={"objective": {"name": "mae", "mask_ratio": 0.75}, "seed": 0},
        versions={"jax": "0.10.2"},
        fingerprint={"store": "tiles", "samples": 12},
        links={"weights": "encoder.safetensors"},
    )
    return dataclasses.replace(report, **changes)


def test_page_is_whole_loads_nothing_and_is_the_same_every_time():
    text = render(make_report(patches=[make_patch("a", 32), make_patch("b", 128, 16)]))
    page = Page(text)
    assert [
        link for link in page.links if not link.startswith(("data:image/png;base64,", "#"))
    ] == ["encoder.safetensors"]
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(http" not in text and "@import" not in text
    assert all(page.images), "a picture without an alt text"
    assert text == render(make_report(patches=[make_patch("a", 32), make_patch("b", 128, 16)]))


def test_sections_come_in_reading_order():
    text = Page(render(make_report())).text
    words = [
        "Method mae",
        "mean of the",
        "Training",
        "rankme",
        "true colour",
        "mask_ratio",
        "Versions",
        "Data fingerprint",
    ]
    locations = [text.index(word) for word in words]
    assert locations == sorted(locations)


def test_a_metric_of_several_sources_is_one_chart_with_a_curve_each_and_their_last_values():
    lines = [
        {
            "step": step,
            "loss": 1.0,
            "rankme/s1": 5.0,
            "rankme/s2": 7.0,
            "feature_std": 0.5,
            "losses": 3.0,
            "accuracy": 0.5,
        }
        for step in range(5)
    ]
    text = render(make_report(lines=lines))
    assert "<b>RankMe of features</b> s1 5, s2 7<" in text
    assert "<b>Spread of features; 0 is collapse</b> 0.5<" in text
    assert (
        text.count("<figure")
        - render(make_report(lines=[{"step": step, "loss": 1.0} for step in range(5)])).count(
            "<figure"
        )
        == 2
    )


def test_no_string_of_a_run_becomes_markup():
    evil = '"><script>alert(1)</script>'
    lines = [{"step": 0, "loss": 1.0, f"loss/{evil}": 1.0, f"eval/{evil}/{evil}": 0.5}]
    names = {evil: evil, "nested": {evil: [evil]}}
    report = make_report(
        title=evil,
        cards=[Card(evil, evil, evil, "worse", evil)],
        lines=lines,
        patches=[make_patch(evil)],
        predictions=make_predictions(names={1: evil}, label=evil, title=evil),
    )
    page = Page(
        render(
            dataclasses.replace(
                report,
                config=names,
                versions=names,
                fingerprint=names,
                links={evil: "javascript:alert(1)"},
            )
        )
    )
    assert "script" not in page.tags
    assert not any(link.startswith("javascript:") for link in page.links)
    assert page.text.count(evil) >= 14  # shown, as text


def test_templates_escape_everything_and_miss_nothing():
    templates = [
        path for package in ("eo_jax", "data_prep") for path in (ROOT / package).rglob("*.html")
    ]
    assert len(templates) == 6
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path
    with pytest.raises(UndefinedError, match="'summary' is undefined"):
        html_page.render("eo_jax.report", "report.html", title="")


def test_templates_and_styles_are_in_a_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    needed = {
        path
        for package in ("eo_jax", "data_prep")
        for kind in ("templates/*.html", "templates/*.css", "templates/*.md", "coastline.txt")
        for path in (ROOT / package).rglob(kind)
    }
    assert needed and needed == shipped


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patches": []}, "No patches were drawn"),
        ({"lines": []}, "No training metrics were logged"),
        ({"lines": [{"step": 0, "loss": 1.0}]}, "No evaluator ran"),
        (
            {"lines": [{"step": 5, "loss": float("nan"), "eval/knn/accuracy": float("nan")}]},
            "NaN 5 evaluated once",
        ),
        ({"lines": [{"step": 0, "loss": 1.0, "mfu": None}]}, "steps 0 to 0"),
        (
            {"links": {}, "cards": [], "config": {}, "versions": {}, "fingerprint": {}},
            "Nothing recorded",
        ),
    ],
)
def test_page_of_a_run_with_little_to_show(changes, expected):
    assert expected in Page(render(make_report(**changes))).text


def test_diverged_or_empty_patches_are_drawn():
    whole = make_patch()
    patches = [
        dataclasses.replace(
            whole,
            title="diverged",
            reconstruction=whole.original * np.nan,
            tokens=whole.tokens * np.nan,
        ),
        dataclasses.replace(whole, title="no data", valid=np.zeros((32, 32), bool), tokens=None),
        dataclasses.replace(whole, title="all visible", masked=np.zeros((32, 32), bool)),
    ]
    text = Page(render(make_report(patches=patches))).text
    assert "RMSE NaN" in text
    assert text.count("no masked pixel has data") == 2


def test_reconstruction_picture_holds_the_prediction_only_where_the_encoder_saw_nothing():
    patch = make_patch()
    images = {
        alt: image[::8, ::8]
        for alt, image in Page(render(make_report(patches=[patch]))).images.items()
    }
    original, shown = (
        images["Original of tile in true colour"],
        images["Encoder input of tile in true colour"],
    )
    mixed, alone = (
        images["Reconstruction of tile in true colour"],
        images["Prediction alone of tile in true colour"],
    )
    assert (mixed[patch.masked] == alone[patch.masked]).all()
    assert (mixed[~patch.masked] == original[~patch.masked]).all()
    assert (shown[patch.masked] == pictures.HIDDEN).all()
    assert (shown[~patch.masked] == original[~patch.masked]).all()
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) == 1  # the prediction is flat,
    assert (original.min(), original.max()) == (0, 255)  # and does not change the stretch


def test_rmse_and_error_scale_ignore_visible_and_invalid_pixels():
    patch = make_patch()
    valid = patch.valid.copy()
    valid[:, :16] = False
    wrong = patch.original + np.where(
        (patch.masked & valid)[..., None], np.float32(0.25), np.float32(100)
    )
    text = Page(
        render(make_report(patches=[dataclasses.replace(patch, reconstruction=wrong, valid=valid)]))
    ).text
    assert "RMSE 0.25 in masked pixels" in text
    assert "one scale for all patches: 0 0.25." in text


def test_a_resumed_run_shows_the_last_value_of_a_step():
    lines = [
        {"step": 10, "loss": 1.0, "eval/knn/accuracy": 0.111},
        {"step": 10, "loss": 1.0, "eval/knn/accuracy": 0.222},
    ]
    text = Page(render(make_report(lines=lines, patches=[]))).text
    assert "0.222" in text and "0.111" not in text


def test_skipped_updates_are_counted():
    lines = [{"step": step, "loss": 1.0, "skipped": int(step in (3, 7))} for step in range(9)]
    assert (
        "loss, gradient or carry was not finite: 2."
        in Page(render(make_report(lines=lines, patches=[]))).text
    )
    quiet = [{**line, "skipped": 0} for line in lines]
    assert "not finite" not in Page(render(make_report(lines=quiet, patches=[]))).text


@pytest.mark.slow
def test_size_stays_within_an_attachment():
    patches = [
        make_patch(str(seed), 128, 16, seed) for seed in range(4)
    ]  # noise, the worst case for PNG
    assert len(render(make_report(patches=patches)).encode()) < 5e6


def test_a_long_noisy_curve_stays_small_and_shows_gaps():
    values = np.random.default_rng(0).uniform(0.5, 1, 50_000)
    values[10_000:20_000] = np.nan
    series = {"": (np.arange(50_000), values)}
    svg = pictures.curve_figure(series, "Loss", np.array([], int), "linear")
    assert len(svg) < 60_000
    assert "nan" not in svg.lower()


def test_arrays_that_do_not_belong_together_are_named():
    patch = make_patch("tile 7")
    with pytest.raises(ValueError, match=r"tile 7.*masked is \(16, 16\), expected \(32, 32\)"):
        dataclasses.replace(patch, masked=patch.masked[:16, :16])
    with pytest.raises(ValueError, match=r"tile 7.*202 bands, expected 13"):
        make_report(patches=[patch], bands=Bands(get_sensor("sentinel2_l1c"), np.ones(13, bool)))


def test_limits_leave_out_no_data():
    image = np.linspace(0, 1, 10_000).reshape(100, 100, 1) * np.array([1, 2, 4])
    valid = np.ones((100, 100), bool)
    valid[50] = False
    dirty = np.where(valid[..., None], image, -3.2768)
    low, high = pictures.percentile_limits([dirty, dirty], [valid, valid])
    np.testing.assert_allclose(low, [0.02, 0.04, 0.08], atol=0.001)
    np.testing.assert_allclose(high, [0.98, 1.96, 3.92], atol=0.001)


def test_colour_stretches_each_channel_and_hatches_no_data():
    cube = np.zeros((4, 4, 5), np.float32)
    cube[0, 0] = [0, 0, 0, 1, 2]
    cube[3, 3, 4] = np.nan
    valid = np.ones((4, 4), bool)
    valid[1, 1] = False
    rgb = pictures.colour(cube, (4, 3, 0), (np.zeros(3), np.array([2.0, 4.0, 0.0])), valid)
    assert rgb[0, 0].tolist() == [255, 64, 128]  # full, a quarter, a channel without range
    assert set(rgb[[1, 3], [1, 3]].ravel()) <= set(pictures.HATCH)


def test_token_colours_mean_the_same_in_every_patch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 4, 8)), rng.normal(size=(2, 6, 8))
    b[1, 2] = a[3, 0]
    first, second = pictures.pca_rgb([a, b])
    assert (first.shape, second.shape) == ((4, 4, 3), (2, 6, 3))
    assert second[1, 2].tolist() == first[3, 0].tolist()
    swapped = pictures.pca_rgb([b, a])
    assert (
        np.abs(swapped[1].astype(int) - first).max() <= 1
    )  # no sign flips with the order of the rows


def test_first_component_is_red_and_points_to_its_largest_loading():
    ramp = np.linspace(0, 1, 9).reshape(3, 3, 1) * np.array([0.1, -3, 0.2, 0])
    rgb = pictures.pca_rgb([ramp])[0].reshape(9, 3)
    assert (np.diff(rgb[:, 0].astype(int)) <= 0).all() and rgb[0, 0] == 255 and rgb[-1, 0] == 0
    assert len(np.unique(rgb[:, 1:], axis=0)) == 1  # one direction only: nothing else varies


def test_collapsed_or_broken_tokens_are_grey():
    collapsed = np.full((4, 4, 8), 0.7) + np.random.default_rng(0).normal(
        scale=1e-8, size=(4, 4, 8)
    )
    assert len(np.unique(pictures.pca_rgb([collapsed])[0])) == 1
    broken = np.random.default_rng(0).normal(size=(4, 4, 8))
    broken[2, 2, 3] = np.nan
    assert pictures.pca_rgb([broken])[0][2, 2].tolist() == [pictures.HIDDEN] * 3


def test_spectra_break_at_the_removed_water_vapour_windows_only():
    nm = np.sort(ENMAP.centres_nm)
    starts = pictures.band_gaps(nm)
    assert [(nm[i - 1], nm[i]) for i in starts] == [(1282.92, 1530.29), (1728.08, 1977.08)]


def test_png_keeps_pixels_square_and_sharp():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(pictures.png(rgb, 4))))
    assert (found == np.kron(rgb, np.ones((4, 4, 1), np.uint8))).all()


def test_contact_sheet_has_room_for_every_image_and_repeats():
    images = [np.full((size, size, 3), 200, np.uint8) for size in (8, 16, 32)]
    sheet = pictures.contact_sheet(images, ["a", "$b$", "c"], columns=2)
    width, height = Image.open(io.BytesIO(sheet)).size
    assert height > width  # two rows of two
    assert sheet == pictures.contact_sheet(images, ["a", "$b$", "c"], columns=2)


# ------------------------------------------------------------------ bands, cards, predictions


def plain_sensor(bands: int) -> Sensor:
    """A sensor whose wavelengths nobody knows."""
    named = tuple(Band(f"b{n}", n, None, None) for n in range(1, bands + 1))
    return Sensor("plain", "Plain", named, None, "int16", 1.0, "counts", None)


def plain_report(bands: int) -> Report:
    whole = make_patch()
    patch = dataclasses.replace(
        whole,
        original=whole.original[..., :bands],
        reconstruction=whole.reconstruction[..., :bands],
    )
    return make_report(patches=[patch], bands=Bands(plain_sensor(bands), np.ones(bands, bool)))


def test_a_sensor_without_wavelengths_has_no_nanometres():
    text = render(plain_report(144))
    assert "144 bands, wavelengths not known" in text and ">band number</text>" in text
    assert not re.search(r"\bnm\b", text) and "wavelength (nm)" not in text
    assert "in counts, one scale" in Page(text).text


def test_few_bands_without_wavelengths_are_named():
    text = render(plain_report(2))
    assert "2 bands (b1, b2)" in text and "b1 in grey" in text
    assert not re.search(r"\bnm\b", text)
    assert ">band</text>" in text and ">b2</text>" in text


def test_a_sensor_with_wavelengths_has_them_on_every_axis():
    text = render(make_report())
    assert "202 bands, 418–2445 nm" in text and text.count(">wavelength (nm)</text>") == 3


def test_cards_are_marked_better_or_worse_by_colour_sign_and_sentence():
    cards = [
        Card("Probe", "80%", "", "better", "better than the untrained encoder"),
        Card("RMSE", "0.5", "", "worse", "worse than the mean"),
        Card("Loss", "1", ""),
    ]
    text = render(make_report(cards=cards))
    assert '<div class="card better">' in text and "▲ better than the untrained encoder" in text
    assert '<div class="card worse">' in text and "▼ worse than the mean" in text
    assert text.count('class="meaning"') == 2


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours "#rrggbb"."""

    def luminance(colour):
        rgb = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_of_sentences_are_readable_in_light_and_dark():
    style = (ROOT / "eo_jax/report/templates/style.css").read_text()
    for scheme in style.split("prefers-color-scheme: dark")[:2]:
        found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for name in ("better", "worse", "soft", "ink"):
            assert contrast(found[name], found["card"]) >= 4.5, name


def test_a_score_has_one_row_with_its_last_value_and_a_curve():
    lines = [
        {"step": step, "eval/knn/accuracy": step / 100, "eval/knn/other": 1.0}
        for step in (10, 20, 30)
    ]
    text = render(make_report(lines=lines, patches=[]))
    assert text.count('<th scope="row">Overall accuracy</th>') == 1
    assert text.count('<th scope="row">other</th>') == 1  # of an evaluator that is gone
    assert "Overall accuracy 0.3 30" in Page(text).text
    assert text.count("Overall accuracy over training steps") == 1


def test_predictions_are_maps_beside_the_truth_with_a_confusion_matrix():
    text = render(make_report(predictions=make_predictions(), patches=[]))
    page = Page(text)
    truth, predicted = page.images["truth of tile"], page.images["prediction of tile"]
    assert truth[-1, 0].tolist() == truth[0, -1].tolist() == predicted[0, 0].tolist()  # class 1
    assert truth[-1, -1].tolist() == predicted[-1, -1].tolist() != truth[-1, 0].tolist()
    assert "66.7% of 3 pixels right" in page.text
    assert "✗ 1 water, truth: 3 wood" in page.text
    assert "1 water 80.0% 10 8 2" in page.text and "3 wood 50.0% 2 1 1" in page.text
    assert "No patches were drawn" not in page.text
