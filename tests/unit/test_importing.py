"""Tests of imports: prefixes, first layers of other bands, positions of other sizes, contracts."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
from exchanged import S2, SIZE, weighted
from safetensors.numpy import save_file

from eo_jax import warm_start
from eo_jax.exchange import prefixes
from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.importing import Source, import_encoder
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.exchange.positions import resample_positions
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.stems import fit_bands
from eo_jax.exchange.tensor import Tensor
from eo_jax.exchange.translation import to_torch
from eo_jax.models.encoder import make_encoder

FINGERPRINT = {
    "sensor": S2.row(),
    "normalisation": {"mean": [0.0] * 13, "std": [1.0] * 13, "source": "store"},
} | dict.fromkeys(("store", "content_sha256", "split", "locations", "samples"), "x")


def with_contract(layout: str = "timm_vit") -> tuple[dict, dict]:
    """(tensors, contract without checksums) of an encoder."""
    encoder, params, statistics = weighted(layout)
    tensors = to_torch(LAYOUTS[layout], encoder, params, statistics, SIZE)
    contract = make_contract(
        "eo", encoder, layout, SIZE, FINGERPRINT, {"objective": {"name": "dino"}}, 7
    )
    return tensors, contract


# ---------------------------------------------------------------------------------------- prefixes


@pytest.mark.parametrize(
    ("prefixed", "expected"),
    [
        (("",), ""),
        (("backbone.",), "backbone."),
        (("module.encoder_k.", "module.encoder_q."), "module.encoder_q."),
        (("student.module.backbone.", "teacher.backbone."), "teacher.backbone."),
        (("state_dict.module.momentum_encoder.", "state_dict.module.base_encoder."), "base"),
    ],
)
def test_the_prefix_of_the_usual_encoder_is_found(prefixed, expected):
    names = ["conv1.weight", "layer1.0.conv1.weight", "bn1.weight"]
    keys = [prefix + name for prefix in prefixed for name in names] + ["epoch"]
    found = prefixes.find_prefix(keys, names)
    assert found == (expected if expected != "base" else prefixed[1])


def test_several_encoders_of_which_none_is_the_usual_one_have_to_be_chosen_from():
    names = ["conv1.weight", "bn1.weight"]
    keys = [f"{branch}.{name}" for branch in ("backbone_1", "backbone_2") for name in names]
    with pytest.raises(ValueError, match=r"'backbone_1\.', 'backbone_2\.'; choose one with"):
        prefixes.find_prefix(keys, names)
    assert prefixes.find_prefix(keys, names, "backbone_2.") == "backbone_2."
    with pytest.raises(ValueError, match="no key of the layout is under it"):
        prefixes.find_prefix(keys, names, "backbone_3.")


def test_a_file_of_another_network_is_refused_with_its_first_keys():
    with pytest.raises(ValueError, match=r"0 of the 2 keys .*first keys: a\.weight"):
        prefixes.find_prefix(["a.weight"], ["conv1.weight", "bn1.weight"])


# ------------------------------------------------------------------------------------------- bands


def test_repeat_and_scale_is_timms_rule():
    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    fitted = fit_bands(weight, "repeat-and-scale", 7, (), ())
    for band in range(7):
        np.testing.assert_allclose(fitted[:, band], weight[:, band % 3] * 3 / 7, rtol=1e-6)
    # The mean over identical bands gives the same as before.
    np.testing.assert_allclose(
        fit_bands(weight, "repeat-and-scale", 6, (), ()).sum(1), weight.sum(1), rtol=1e-4, atol=1e-6
    )


def test_by_wavelength_interpolates_between_neighbours_in_any_order():
    weight = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)  # of 700, 500 and 600 nm
    fitted = fit_bands(weight, "by-wavelength", 4, (700, 500, 600), (400, 550, 675, 900))
    np.testing.assert_allclose(fitted.ravel() * 4 / 3, [1.0, 1.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("rule", "source_nm", "message"),
    [
        ("by-wavelength", (500, 600), "a wavelength of each of the 3 bands"),
        ("by-wavelength", (0.49, 0.56, 0.66), r"--bands-nm: wavelength 0\.49; expected nanometres"),
        ("by-wavelength", (500, float("nan"), 600), "--bands-nm: wavelength nan"),
        ("by-wavelength", (500, 500, 600), "two bands have the same wavelength"),
        ("mean", (), "expected one of repeat-and-scale, by-wavelength, new"),
    ],
)
def test_a_rule_without_what_it_needs_is_refused(rule, source_nm, message):
    with pytest.raises(ValueError, match=message):
        fit_bands(np.zeros((1, 3, 1, 1)), rule, 2, source_nm, (500, 600))


# --------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(("before", "after"), [(4, 7), (7, 4), (14, 16), (16, 6), (5, 5)])
def test_positions_are_resampled_as_timm_does(before, after):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(1).normal(size=(1, 1 + before**2, 6)).astype(np.float32)
    found = resample_positions(table, after)
    grid = torch.from_numpy(table[:, 1:]).reshape(1, before, before, 6).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, size=(after, after), mode="bicubic", antialias=True
    )
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 6).numpy()
    np.testing.assert_allclose(found[:, 1:], expected, atol=2e-5)
    np.testing.assert_array_equal(found[:, :1], table[:, :1])


# ------------------------------------------------------------------------------------------- files


def test_a_file_gives_the_encoder_and_says_what_it_left_out(tmp_path):
    tensors, _ = with_contract()
    encoder, params, _ = weighted("timm_vit")
    heads = {"head.weight": np.zeros((3, 192), np.float32), "mask_token": np.zeros((1, 1, 2))}
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{key}": tensor for key, tensor in (tensors | heads).items()}, path)
    imported = import_encoder(Source(path), encoder, SIZE)
    np.testing.assert_array_equal(
        imported.params["trunk"]["norm"]["scale"], params["trunk"]["norm"]["scale"]
    )
    told = "\n".join(imported.remarks)
    assert "prefix 'module.'" in told and "left out: module.head.* (1 tensor)" in told


def test_a_file_without_a_contract_leaves_heads_to_the_config_and_says_so(tmp_path):
    tensors, _ = with_contract()
    path = tmp_path / "weights.npz"
    np.savez(path, **tensors)
    imported = import_encoder(Source(path), weighted("timm_vit")[0], SIZE)
    assert any(
        "heads 3" in line and "a state dict does not say" in line for line in imported.remarks
    )


def test_a_file_of_another_number_of_heads_is_refused_by_its_contract(tmp_path):
    tensors, contract = with_contract()
    contract["architecture"]["heads"] = 6
    made = {key: Tensor(x.shape, x.dtype.name, lambda x=x: x) for key, x in tensors.items()}
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path, to_header(sealed(contract, made)))
    with pytest.raises(ValueError, match="heads is 6, the config's encoder has 3"):
        import_encoder(Source(path), weighted("timm_vit")[0], SIZE)


def test_other_bands_need_a_rule_and_learned_positions_are_resampled(tmp_path):
    tensors, _ = with_contract()
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    encoder = weighted("timm_vit")[0]
    rgb = S2.select(("B2", "B3", "B4"))
    other = make_encoder(
        encoder.stem, dataclasses.replace(encoder.trunk, grid=6), rgb, encoder.dtype
    )
    with pytest.raises(ValueError, match=r"is for 13 bands, sensor .* has 3; give a rule"):
        import_encoder(Source(path), other, 96)
    imported = import_encoder(Source(path, stem="repeat-and-scale"), other, 96)
    assert imported.params["stem"]["embed"]["kernel"].shape == (16 * 16 * 3, 192)
    assert imported.params["trunk"]["position_embedding"]["table"].shape == (1, 37, 192)
    told = "\n".join(imported.remarks)
    assert "13 bands to 3 by repeat-and-scale" in told and "from 4 x 4 to 6 x 6" in told
    fresh = import_encoder(Source(path, stem="new"), other, 96)
    kernel = fresh.params["stem"]["embed"]["kernel"]
    assert np.isfinite(kernel).all() and kernel.std() > 0


def test_fixed_positions_of_a_file_have_to_be_those_of_the_config(tmp_path):
    encoder, params, statistics = weighted("hf_vit")
    tensors = to_torch(LAYOUTS["hf_vit"], encoder, params, statistics, SIZE)
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    source = Source(path, layout="hf_vit")
    assert import_encoder(source, encoder, 32)  # the file's own size counts
    other = make_encoder(
        encoder.stem, dataclasses.replace(encoder.trunk, positions="sincos"), S2, encoder.dtype
    )
    with pytest.raises(ValueError, match="position_embeddings: differs from the positions"):
        import_encoder(source, other, SIZE)


def test_fixed_positions_may_be_rounded_to_the_type_of_a_file(tmp_path):
    encoder, params, statistics = weighted("hf_vit")
    tensors = to_torch(LAYOUTS["hf_vit"], encoder, params, statistics, SIZE)
    key = "embeddings.position_embeddings"
    brain = (tensors[key].view(np.uint32) & 0xFFFF0000).view(np.float32)
    for rounded in (tensors[key].astype(np.float16), brain):
        save_file(tensors | {key: rounded}, tmp_path / "weights.safetensors")
        assert import_encoder(Source(tmp_path / "weights.safetensors", "hf_vit"), encoder, SIZE)


@pytest.mark.parametrize("layout", ["timm_vit", "hf_vit", "hf_dinov2"])
def test_positions_of_one_token_are_not_those_of_a_view(tmp_path, layout):
    encoder, params, statistics = weighted(layout)
    tensors = to_torch(LAYOUTS[layout], encoder, params, statistics, SIZE)
    (key,) = (name for name in tensors if name.endswith(("pos_embed", "position_embeddings")))
    save_file(tensors | {key: tensors[key][:, :1].copy()}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"has shape \(1, 1, 192\), expected \(1, 1[67], 192\)"):
        import_encoder(Source(tmp_path / "weights.safetensors", layout), encoder, SIZE)


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("timm_vit", {"bands_nm": [500.0] * 13}, "--bands-nm: is of --stem=by-wavelength"),
        ("spec_vit", {"stem": "new"}, "--stem: .* no kernel per band"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(tmp_path, layout, options, message):
    encoder, params, statistics = weighted(layout)
    tensors = to_torch(LAYOUTS[layout], encoder, params, statistics, SIZE)
    save_file(tensors, tmp_path / "weights.safetensors")
    source = Source(tmp_path / "weights.safetensors", layout, **options)
    with pytest.raises(ValueError, match=message):
        import_encoder(source, encoder, SIZE)


@pytest.mark.parametrize(
    ("origin", "option"), [("weights.npz", "init_encoder"), ("run", "init_layout")]
)
def test_a_choice_that_a_start_does_not_have_is_refused(origin, option):
    run = {"init_from": origin, "init_layout": "", "init_encoder": "", option: "other"}
    experiment = types.SimpleNamespace(run=types.SimpleNamespace(**run))
    with pytest.raises(ValueError, match=rf"config\.run\.{option}: 'other'; {origin} is a"):
        warm_start.load_weights({}, experiment)


def test_pth_files_are_read_on_request_only_and_never_execute(tmp_path):
    torch = pytest.importorskip("torch")
    tensors, _ = with_contract()
    state = {f"module.{key}": torch.from_numpy(tensor) for key, tensor in tensors.items()}
    path = tmp_path / "weights.pth"
    torch.save({"model": state, "epoch": 3}, path)
    encoder = weighted("timm_vit")[0]
    with pytest.raises(ValueError, match="import_torch --allow-pth"):
        import_encoder(Source(path), encoder, SIZE)
    imported = import_encoder(Source(path, allow_pth=True), encoder, SIZE)
    assert "prefix 'model.module.'" in imported.remarks

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model": state, "args": Payload()}, path)
    with pytest.raises(ValueError, match="holds more than tensors") as refused:
        import_encoder(Source(path, allow_pth=True), encoder, SIZE)
    assert "open" in str(refused.value) and "False" not in str(refused.value)  # torch's advice
    assert not (tmp_path / "executed").exists()
