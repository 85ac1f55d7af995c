"""What every quantizer keeps, run over all of cases.py."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from vq.quantizers import make

_spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
CASES = _module.CASES
LAYOUTS = [(), (40,), (5, 9), (2, 3, 4), (2, 2, 3, 2)]


def name(case):
    kind, config = case
    return f"{kind}-{'-'.join(str(v) for v in config.values())}"[:60]


def data(*shape, seed=0):
    """Correlated, off the origin."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x + 0.5 * x.roll(1, -1) + 0.3


@pytest.fixture(params=CASES, ids=[name(case) for case in CASES])
def layer(request):
    """A layer that was started on data."""
    kind, config = request.param
    made = make(kind, **config)
    made.start(data(600, made.dim, seed=1), torch.Generator().manual_seed(0))
    return made


def random_mask(shape, seed=0):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    return mask if mask.ndim == 0 or bool(mask.any()) else ~mask


def step(layer, x, mask=None, rate=0.02):
    """One training step; returns what the forward returned."""
    found = layer(x, mask)
    loss = (found.values - x).square().mean() + found.loss
    own = [p for p in layer.parameters() if p.requires_grad]
    layer.zero_grad()
    if loss.requires_grad:
        loss.backward()
    with torch.no_grad():
        for parameter in own:
            if parameter.grad is not None:
                parameter.sub_(rate * parameter.grad)
    return found


def assert_round_trip(layer, x, mask=None):
    found = layer(x, mask)
    batch = x.shape[:-1]
    assert found.values.shape == x.shape and found.values.dtype == x.dtype
    assert found.codes.shape == (*batch, *layer.codes_shape) and found.codes.dtype == torch.int64
    assert torch.equal(layer.decode(found.codes), found.values.detach())
    limits = torch.tensor(layer.code_entries).reshape(layer.codes_shape)
    assert bool((found.codes < limits).all()) and bool((found.codes >= -1).all())
    if mask is not None:
        assert bool((found.values[~mask] == 0).all()) and bool((found.codes[~mask] == -1).all())
    return found


def same_state(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    return all(torch.equal(left[key], right[key]) for key in left)


def test_the_kind_and_the_configuration_make_an_equal_layer(layer):
    config = json.loads(json.dumps(layer.config()))
    other = make(layer.kind, **config)
    assert other.config() == layer.config() and str(other) == str(layer)
    other.load_state_dict(layer.state_dict())
    x = data(50, layer.dim)
    assert torch.equal(other.eval().encode(x), layer.eval().encode(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_decoded_codes_are_the_values(layer, shape, masked):
    mask = random_mask(shape) if masked else None
    for mode in (True, False):
        layer.train(mode)
        for turn in range(3):
            assert_round_trip(layer, data(*shape, layer.dim, seed=turn), mask)


def test_also_while_it_trains(layer):
    layer.train()
    for turn in range(12):
        x = data(7, 9, layer.dim, seed=turn)
        mask = random_mask((7, 9), turn) if turn % 3 else None
        found = layer(x, mask)
        assert torch.equal(layer.decode(found.codes), found.values)
        step(layer, x, mask)
    layer.eval()
    assert_round_trip(layer, data(20, layer.dim))


def test_also_after_saving_and_loading(layer, tmp_path):
    layer.train()
    for turn in range(4):
        step(layer, data(60, layer.dim, seed=turn))
    found = layer(data(60, layer.dim, seed=9))
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = make(layer.kind, **layer.config())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.decode(found.codes), found.values)


def test_a_resumed_run_is_the_uninterrupted_one(layer):
    layer.train()
    for turn in range(5):
        step(layer, data(60, layer.dim, seed=turn))
    other = make(layer.kind, **layer.config()).train()
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    for turn in range(5, 11):
        for one in (layer, other):
            torch.manual_seed(turn)  # for draws that a layer takes from the global generator
            step(one, data(60, layer.dim, seed=turn))
    assert same_state(layer, other)


def test_inference_changes_nothing(layer):
    x = data(30, layer.dim)
    for turn in range(3):
        step(layer.train(), data(60, layer.dim, seed=turn))
    before = copy.deepcopy(layer)
    codes = layer.encode(x)
    layer.decode(codes)
    layer.eval()(x)
    layer.eval()(x, random_mask((30,)))
    assert same_state(before, layer)
    assert torch.equal(layer(x).codes, layer.encode(x))
    mask = random_mask((30,))
    assert torch.equal(layer(x, mask).codes, layer.encode(x, mask))


def test_what_is_masked_does_not_matter(layer):
    x, mask = data(5, 8, layer.dim), random_mask((5, 8))
    hidden = torch.where(mask[..., None], x, torch.nan)
    hidden[0, 0], mask[0, 0] = torch.inf, False
    for mode in (True, False):
        found = []
        for content in (x, hidden):
            one = copy.deepcopy(layer).train(mode)
            torch.manual_seed(0)
            own = content.clone().requires_grad_()
            result = one(own, mask)
            (result.values.square().sum() + result.loss).backward()
            found.append((one, result, own.grad))
        (one, a, grad), (other, b, hidden_grad) = found
        assert torch.equal(a.codes, b.codes) and torch.equal(a.values, b.values)
        assert torch.equal(a.loss, b.loss) and same_state(one, other)
        assert torch.equal(grad, hidden_grad) and bool((grad[~mask] == 0).all())
    assert torch.equal(layer.encode(x, mask), layer.encode(hidden, mask))


def test_a_vector_is_quantized_the_same_alone(layer):
    if layer.kind == "multiscale":
        pytest.skip("its blocks are frames that belong together")
    layer.eval()
    x = data(64, layer.dim)
    codes = layer.encode(x)
    parts = torch.cat([layer.encode(part) for part in x.split([1, 5, 26, 32])])
    assert torch.equal(parts, codes)
    values = torch.cat([layer.decode(part) for part in codes.split([1, 5, 26, 32])])
    assert torch.equal(values, layer.decode(codes))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_other_types_give_the_codes_of_the_same_numbers(layer, kind):
    layer.eval()
    x = data(50, layer.dim).to(getattr(torch, kind))
    if kind == "float64":
        x = x.float().double()
    found = layer(x)
    assert found.values.dtype == x.dtype
    assert torch.equal(found.codes, layer(x.float()).codes)
    assert torch.equal(found.values, layer.decode(found.codes).to(x.dtype))


def test_autocast_changes_nothing(layer):
    found = []
    for on in (False, True):
        one, x = copy.deepcopy(layer).train(), data(50, layer.dim).requires_grad_()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            result = one(x)
            assert torch.equal(one.decode(result.codes), result.values)
            codes = copy.deepcopy(one).eval().encode(x)
        (result.values.square().sum() + result.loss).backward()
        grads = [p.grad for p in one.parameters() if p.grad is not None]
        found.append((result.codes, result.values, result.loss, codes, x.grad, *grads))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_gradients_arrive(layer):
    layer.train()
    x = data(40, layer.dim).requires_grad_()
    found = layer(x)
    (found.values.square().sum() + found.loss).backward()
    assert bool(torch.isfinite(x.grad).all()) and float(x.grad.norm()) > 0
    for key, parameter in layer.named_parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), key
    assert found.weights.keys() == found.losses.keys()
    for key, value in {**found.losses, **found.stats}.items():
        assert value.shape == () and bool(torch.isfinite(value)), key
    assert not any(value.requires_grad for value in found.stats.values())


def test_a_number_that_is_none_poisons_nothing(layer):
    layer.train()
    for turn in range(4):
        x = data(60, layer.dim, seed=turn)
        x[3, 0], x[7, -1] = torch.nan, torch.inf
        layer(x)
    for key, value in layer.state_dict().items():
        assert bool(torch.isfinite(value.float()).all()), key
    found = layer(data(60, layer.dim, seed=9))
    assert bool(torch.isfinite(found.values).all())
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        layer.encode(x)


def test_an_empty_batch(layer):
    layer.eval()
    for shape in ((0,), (3, 0)):
        found = assert_round_trip(layer, torch.zeros(*shape, layer.dim))
        assert float(found.loss.detach()) == 0
        assert layer.encode(torch.zeros(*shape, layer.dim)).shape == (*shape, *layer.codes_shape)


def test_all_masked(layer):
    layer.train()
    for turn in range(3):
        x = data(20, layer.dim, seed=turn).requires_grad_()
        found = assert_round_trip(layer, x, torch.zeros(20, dtype=torch.bool))
        assert float(found.loss.detach()) == 0
    found = assert_round_trip(layer, data(20, layer.dim))
    assert bool((found.codes >= 0).any())


def test_prefixes(layer):
    codes = layer.encode(data(10, layer.dim))
    assert torch.equal(layer.decode(codes, layer.stages), layer.decode(codes))
    for wrong in (0, layer.stages + 1):
        with pytest.raises(ValueError, match="stage"):
            layer.decode(codes, wrong)


def test_nothing_decodes_to_zero(layer):
    codes = torch.full((3, *layer.codes_shape), -1)
    assert torch.equal(layer.decode(codes), torch.zeros(3, layer.dim))


def test_it_compiles_as_one_graph(layer):
    torch._dynamo.reset()
    for mode in (True, False):
        plain, own = copy.deepcopy(layer).train(mode), copy.deepcopy(layer).train(mode)
        compiled = torch.compile(own, fullgraph=True, backend="aot_eager")
        for turn in range(2):
            x, mask = data(30, layer.dim, seed=turn), random_mask((30,), turn)
            torch.manual_seed(turn)
            expected = plain(x, mask)
            torch.manual_seed(turn)
            found = compiled(x, mask)
            assert torch.equal(found.codes, expected.codes)
            assert torch.equal(found.values, own.decode(found.codes))
            torch.testing.assert_close(found.loss, expected.loss)
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(own.state_dict()[key], value)


def test_wrong_input_is_refused(layer):
    good = data(4, layer.dim)
    for call in (layer, layer.encode):
        with pytest.raises(ValueError, match="expected"):
            call(data(4, layer.dim + 1))
        with pytest.raises(ValueError, match="floating"):
            call(good.long())
        with pytest.raises(ValueError, match="mask"):
            call(good, torch.ones(5, dtype=torch.bool))
        with pytest.raises(ValueError, match="mask"):
            call(good, torch.ones(4))
    codes = layer.encode(good)
    for wrong in (max(layer.code_entries), -2):
        bad = codes.clone()
        bad[(0,) * codes.ndim] = wrong
        if wrong < 0 or layer.code_entries[0] == wrong:
            with pytest.raises(ValueError, match="expected"):
                layer.decode(bad)
    with pytest.raises(ValueError, match="integer"):
        layer.decode(codes.float())
    with pytest.raises(ValueError, match="argument"):
        make(layer.kind, nothing=1)
