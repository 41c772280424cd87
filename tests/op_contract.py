"""The tests that every operator passes, stated once.

:class:`OpContract` holds them. A subclass describes an operator (in graph_conv_cases.py, relu_affinity_cases.py and
test_philox.py). A subclass of that, ``class TestContract``, has pytest run them; ``device_type = "cuda"`` on a GPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap

from dgcn_ext import ops

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
VMAP_SIZE = 3


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def differentiate(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], options: dict[str, Any], grad_y: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """y and the gradient of every tensor that takes one; ``grad_y`` is ones where it is None."""
    names = [name for name, value in tensors.items() if value.is_floating_point() and name != "adjacency"]
    leaves = {name: value.detach().requires_grad_(name in names) for name, value in tensors.items()}
    y = function(**leaves, **options)
    if names:
        y.backward(torch.ones_like(y) if grad_y is None else grad_y)
    return y.detach(), {name: leaves[name].grad for name in names}


@dataclass(frozen=True)
class Call:
    """The arguments of one call: tensors by name, in the order of the parameters, and options."""

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def of(self, function: Callable[..., Tensor]) -> Tensor:
        """What the function returns."""
        return function(**self.tensors, **self.options)

    def replaced(self, **tensors: Tensor) -> Call:
        return replace(self, tensors=self.tensors | tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        return replace(self, tensors={name: function(tensor) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> Call:
        moved = self.map(lambda tensor: tensor.to(device))
        seeds = {name: value.to(device) for name, value in self.options.items() if isinstance(value, Tensor)}
        return replace(moved, options=self.options | seeds)

    def double(self) -> Call:
        return self.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


@dataclass(frozen=True)
class Vmap:
    """A case of vmap: the names of the tensors that are mapped over, and options of the call."""

    mapped: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadInput:
    """Arguments that replace those of a good call, and the error that they raise."""

    change: dict[str, Any]
    error: type[Exception]
    message: str
    """A regular expression."""
    compiled: bool = False
    """Whether the message has to be the same under torch.compile: a case of each kind of check is enough there."""


class OpContract:
    """The contract. Its attributes, and the methods before ``pytest_generate_tests``, describe the operator."""

    device_type = "cpu"

    function: Callable[..., Tensor]
    """The function of dgcn_ext.functional."""
    reference: Callable[..., Tensor]
    """Its specification in dgcn_ext.reference."""
    overload: Any
    """The operator in torch.ops.dgcn."""
    differentiable: tuple[str, ...] = ()
    """The tensors that take a gradient."""
    features: tuple[str, ...]
    """The tensors of the dtype that varies; all others are held in the accumulation dtype."""
    per_image: tuple[str, ...] = ()
    """The tensors whose first dimension is B."""
    shape: tuple[int, ...]
    """Of features, where any will do."""
    layouts: dict[str, Callable[[Tensor], Tensor]]
    """Give features of that shape other strides."""
    vmaps: tuple[Vmap, ...]
    bad_input: list[tuple[Any, ...]]
    """The fields of :class:`BadInput`, for a call of that shape in float32."""

    def raw(self, **arguments: Any) -> Tensor:
        """``overload`` with the arguments of ``function``."""
        raise NotImplementedError

    def sample(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Call:
        """A call with every tensor, its features of that shape."""
        raise NotImplementedError

    def samples(self, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Iterable[Call]]]:
        """Calls of every size, option and layout that takes another way through the compiled code; empty ones too."""
        raise NotImplementedError

    def large(self, device: torch.device) -> Call:
        """A call of which each of several threads gets a part."""
        raise NotImplementedError

    def small(self, seed: int = 0) -> Call:
        """A call in float64 on the CPU, small enough for numerical derivatives; ``seed`` chooses other numbers."""
        raise NotImplementedError

    def gradchecks(self) -> Iterable[Call]:
        """Variants of ``small()``, away from the kinks of ReLU."""
        return [self.small()]

    def opchecks(self, device: torch.device) -> Iterable[tuple[Any, tuple[Any, ...]]]:
        """Operators, forward and backward, with arguments for torch.library.opcheck."""
        raise NotImplementedError

    def compiled_calls(self) -> Iterable[tuple[Call, ...]]:
        """Two calls each, alike but for the sizes of the features, float32 on the CPU."""
        raise NotImplementedError

    def check(self, call: Call, grad_y: Tensor | None = None) -> None:
        """Raises AssertionError where the result or a gradient differs from the float64 reference."""
        raise NotImplementedError

    def make_grad_y(self, call: Call) -> Tensor:
        """A gradient of the result to differentiate with."""
        y = call.of(self.reference)
        return torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)

    # ---- What the tests are made of ---------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = metafunc.fixturenames
        if "sample_name" in names:
            metafunc.parametrize("sample_name", list(self.samples(torch.float32, torch.device("cpu"))))
        if "layout" in names:
            metafunc.parametrize("layout", list(self.layouts))
        if "case" in names:
            metafunc.parametrize("case", self.vmaps, ids=lambda case: "-".join(case.mapped))
        if "bad" in names:
            metafunc.parametrize("bad", [BadInput(*row) for row in self.bad_input], ids=lambda bad: bad.message)
        if "differentiated" in names:
            metafunc.parametrize("differentiated", self.differentiable)
        if "dtype" in names:
            metafunc.parametrize("dtype", DTYPES)

    @pytest.fixture
    def device(self) -> torch.device:
        return torch.device(self.device_type)

    @pytest.fixture(params=["functional", "raw"])
    def implementation(self, request: pytest.FixtureRequest) -> Callable[..., Tensor]:
        """What users call, and what an exported program calls."""
        return self.function if request.param == "functional" else self.raw

    def skip_without_gradients(self) -> None:
        if not self.differentiable:
            pytest.skip("takes no gradient")

    def differentiate(
        self, function: Callable[..., Tensor], call: Call, grad_y: Tensor | None = None
    ) -> dict[str, Tensor]:
        y, gradients = differentiate(function, call.tensors, call.options, grad_y)
        return {"y": y} | gradients

    def positional(
        self, function: Callable[..., Tensor], call: Call, **options: Any
    ) -> tuple[Callable[..., Tensor], list[Tensor], tuple[int, ...]]:
        """The function of the tensors alone, in their order; the tensors; the places of the differentiable ones."""
        names = list(call.tensors)

        def of_tensors(*tensors: Tensor) -> Tensor:
            return function(**dict(zip(names, tensors, strict=True)), **call.options, **options)

        places = tuple(i for i, name in enumerate(names) if name in self.differentiable)
        return of_tensors, list(call.tensors.values()), places

    # ---- Values and gradients ---------------------------------------------------------------------------------------

    def test_equals_the_reference(self, device: torch.device, dtype: torch.dtype, sample_name: str) -> None:
        for call in self.samples(dtype, device)[sample_name]():
            self.check(call)

    def test_layouts(self, device: torch.device, layout: str) -> None:
        """Each tensor on its own in a layout that the others do not have. The fake function foretells the strides."""
        change = self.layouts[layout]
        for dtype in (torch.float32, torch.bfloat16):
            plain = self.sample(self.shape, dtype, device)
            for name in self.features:
                call = plain.replaced(**{name: change(plain.tensors[name])})
                self.check(call)
                meta = call.map(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))
                assert meta.of(self.function).stride() == call.of(self.function).stride()
            if self.differentiable:
                self.check(plain, change(self.make_grad_y(plain)))

    def test_strided_parameters(self, device: torch.device) -> None:
        call = self.sample(self.shape, torch.float32, device)
        strided = call.map(lambda t: t if t.dim() == 0 else t.repeat_interleave(2, dim=-1)[..., ::2])
        assert torch.equal(strided.of(self.function), call.of(self.function))

    def test_parameters_of_another_dtype(self, device: torch.device) -> None:
        """They are cast to the accumulation dtype, and their gradients back."""
        for dtype, other in [
            (torch.float32, torch.float64),
            (torch.float32, torch.bfloat16),
            (torch.float64, torch.half),
            (torch.bfloat16, torch.float64),
        ]:
            call = self.sample(self.shape, dtype, device)
            names = [n for n, t in call.tensors.items() if t.is_floating_point() and n not in self.features]
            if not names:
                pytest.skip("takes features only")
            rounded = call.replaced(**{name: call.tensors[name].to(other) for name in names})
            cast = rounded.replaced(**{name: rounded.tensors[name].to(accumulation_dtype(dtype)) for name in names})
            results = self.differentiate(self.function, rounded)
            assert torch.equal(results["y"], cast.of(self.function))
            assert {results[name].dtype for name in names if name in self.differentiable} == {other}

    def test_calls_repeat_bit_for_bit(self, device: torch.device) -> None:
        """On any number of threads."""
        call = self.large(device)
        expected = self.differentiate(self.function, call)
        threads = torch.get_num_threads()
        try:
            for number in (threads, 1, 2, 5):
                torch.set_num_threads(number)
                again = self.differentiate(self.function, call)
                assert all(torch.equal(again[name], result) for name, result in expected.items())
        finally:
            torch.set_num_threads(threads)

    # ---- Autograd ---------------------------------------------------------------------------------------------------

    def test_gradcheck(self, device: torch.device) -> None:
        self.skip_without_gradients()
        for call in self.gradchecks():
            function, tensors, places = self.positional(self.function, call.to(device))
            for place in places:
                tensors[place].requires_grad_()
            assert torch.autograd.gradcheck(function, tensors)

    def test_each_gradient_alone(self, device: torch.device, differentiated: str) -> None:
        call = self.sample(self.shape, torch.float32, device)
        grad_y = self.make_grad_y(call)
        expected = self.differentiate(self.function, call, grad_y)[differentiated]
        call.tensors[differentiated].requires_grad_()
        call.of(self.function).backward(grad_y)
        assert all((value.grad is not None) == (name == differentiated) for name, value in call.tensors.items())
        torch.testing.assert_close(call.tensors[differentiated].grad, expected)

    def test_no_graph_is_recorded_without_need(self, device: torch.device) -> None:
        call = self.sample(self.shape, torch.float32, device)
        assert call.of(self.function).grad_fn is None
        if self.differentiable:
            call.tensors[self.differentiable[-1]].requires_grad_()
            assert call.of(self.function).grad_fn is not None
            with torch.no_grad():
                assert call.of(self.function).grad_fn is None

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # raised inside torch.func.jvp
    def test_unsupported_derivatives_raise(self, device: torch.device, implementation: Callable[..., Tensor]) -> None:
        self.skip_without_gradients()
        call = self.small().to(device)
        name = self.features[0]
        x = call.tensors[name]

        def loss(x: Tensor) -> Tensor:
            return call.replaced(**{name: x}).of(implementation).square().sum()

        for forward_mode in (lambda: jvp(loss, (x,), (x,)), lambda: hessian(loss)(x)):
            with pytest.raises(NotImplementedError, match="forward mode AD"):
                forward_mode()
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
            loss(forward_ad.make_dual(x, x))
        for twice in (grad(lambda x: grad(loss)(x).sum()), jacrev(grad(loss))):
            with pytest.raises(RuntimeError, match="differentiate twice"):
                twice(x)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            gradient.sum().backward()
        constant, tangent = jvp(lambda y: loss(x) + y, (x[0],), (x[0],))  # what has no tangent may pass
        torch.testing.assert_close(constant, loss(x) + x[0])
        torch.testing.assert_close(tangent, x[0])

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised inside opcheck
    def test_opcheck(self, device: torch.device) -> None:
        for op, arguments in self.opchecks(device):
            torch.library.opcheck(op, arguments)

    # ---- torch.func, torch.compile, torch.export --------------------------------------------------------------------

    def test_vmap(self, device: torch.device, implementation: Callable[..., Tensor], case: Vmap) -> None:
        """Values, and gradients with vmap inside, outside and below the differentiation: those of a loop."""
        calls = [self.small(seed).to(device) for seed in range(VMAP_SIZE)]
        function, args, places = self.positional(implementation, calls[0], **case.options)
        reference, *_ = self.positional(self.reference, calls[0], **case.options)
        in_dims = tuple(0 if name in case.mapped else None for name in calls[0].tensors)
        for i, name in enumerate(calls[0].tensors):
            if name in case.mapped:
                args[i] = torch.stack([call.tensors[name] for call in calls])

        def loop(function: Callable[..., Any]) -> Callable[..., Any]:
            def looped(*args: Tensor) -> Any:
                elements = [
                    [arg if dim is None else arg[n] for arg, dim in zip(args, in_dims, strict=True)]
                    for n in range(VMAP_SIZE)
                ]
                results = [function(*element) for element in elements]
                if isinstance(results[0], Tensor):
                    return torch.stack(results)
                return tuple(map(torch.stack, zip(*results, strict=True)))

            return looped

        mapped, looped = vmap(function, in_dims), loop(reference)
        torch.testing.assert_close(mapped(*args), looped(*args))
        if not places:
            return

        def gradients(
            function: Callable[..., Tensor], places: tuple[int, ...] = places
        ) -> Callable[..., tuple[Tensor, ...]]:
            return grad(lambda *args: function(*args).sin().sum(), places)

        def backward(*args: Tensor) -> tuple[Tensor, ...]:
            leaves = [arg.clone().requires_grad_(i in places) for i, arg in enumerate(args)]
            return torch.autograd.grad(mapped(*leaves).sin().sum(), [leaves[i] for i in places])

        expected = gradients(looped)(*args)
        torch.testing.assert_close(gradients(mapped)(*args), expected)
        for some in (places, places[:1]):
            of_element, of_reference = gradients(function, some), gradients(reference, some)
            torch.testing.assert_close(vmap(of_element, in_dims)(*args), loop(of_reference)(*args))
        torch.testing.assert_close(backward(*args), expected)

    def test_vmap_over_nothing_is_refused(self, case: Vmap) -> None:
        call = self.small()
        function, args, _ = self.positional(self.function, call, **case.options)
        in_dims = tuple(0 if name in case.mapped else None for name in call.tensors)
        nothing = [arg if dim is None else arg[None][:0] for arg, dim in zip(args, in_dims, strict=True)]
        message = rf"vmap over {self.overload.name()} needs a dimension of at least one element, got 0"
        with pytest.raises(ValueError, match=message):
            vmap(function, in_dims)(*nothing)

    def test_jacobian(self, device: torch.device, implementation: Callable[..., Tensor]) -> None:
        """With B = 2 and B = 1, where the elements of a batch, mapped or not, are views of it."""
        self.skip_without_gradients()
        small = self.small().to(device)
        self.check_jacobian(implementation, small)
        self.check_jacobian(implementation, small.replaced(**{n: small.tensors[n][:1] for n in self.per_image}))

    def check_jacobian(self, implementation: Callable[..., Tensor], call: Call) -> None:
        function, args, places = self.positional(implementation, call)
        reference, *_ = self.positional(self.reference, call)
        first, *others = args

        def of_first(first: Tensor) -> Tensor:
            return function(first, *others)

        expected = jacrev(reference, places)(*args)
        torch.testing.assert_close(jacrev(function, places)(*args), expected)
        y, pull_back = vjp(of_first, first)
        torch.testing.assert_close(pull_back(torch.ones_like(y))[0], expected[0].sum(tuple(range(y.dim()))))
        batched = torch.autograd.functional.jacobian(of_first, first, vectorize=True)
        torch.testing.assert_close(batched, expected[0])

    def test_compile(self, device: torch.device) -> None:
        """Without Inductor, which compiles C++ on the CPU: test_torch_tools.py has it compile both operators once."""
        for calls in self.compiled_calls():
            torch.compiler.reset()

            def function(**arguments: Any) -> Tensor:
                return self.function(**arguments).cos()

            compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
            for call in calls:  # the second one with dynamic sizes
                call = call.to(device)
                ours, theirs = (self.differentiate(each, call) for each in (compiled, function))
                for name, result in theirs.items():
                    torch.testing.assert_close(ours[name], result, rtol=1e-4, atol=1e-4)

    def test_an_exported_program_trains(self, device: torch.device) -> None:
        """Saved and loaded, with a batch of another size."""
        first, second = (self.small(seed).to(device) for seed in range(2))
        function, args, _ = self.positional(self.function, first)

        class Program(nn.Module):
            def forward(self, *tensors: Tensor) -> Tensor:
                return function(*tensors)

        batch = torch.export.Dim("batch")
        sizes = tuple({0: batch} if name in self.per_image else None for name in first.tensors)
        file = io.BytesIO()
        torch.export.save(torch.export.export(Program(), tuple(args), dynamic_shapes=(sizes,)), file)
        file.seek(0)
        loaded = torch.export.load(file).module()

        both = {name: torch.cat((first.tensors[name], second.tensors[name])) for name in self.per_image}
        call = second.replaced(**both)
        ours = self.differentiate(lambda **tensors: loaded(*(tensors[name] for name in call.tensors)), call)
        theirs = self.differentiate(self.reference, call)
        for name, result in theirs.items():
            torch.testing.assert_close(ours[name], result)
        _, args, places = self.positional(self.function, call)
        if places:
            gradients = grad(lambda *args: loaded(*args).sum(), places)(*args)
            for place, gradient in zip(places, gradients, strict=True):
                torch.testing.assert_close(gradient, theirs[list(call.tensors)[place]])

    def test_autocast(self, device: torch.device) -> None:
        """Features are cast as conv2d casts its input, the others keep their digits; float64 and meta are not cast."""
        self.skip_without_gradients()
        call = self.sample(self.shape, torch.float32, device)
        for dtype in (torch.bfloat16, torch.float16):
            half = call.replaced(**{name: call.tensors[name].to(dtype) for name in self.features})
            first = {self.features[0]: half.tensors[self.features[0]]}
            expected = half.of(self.function)
            with torch.autocast(device.type, dtype):
                results = self.differentiate(self.function, call)
                mixed = call.replaced(**first).of(self.function)
                double = call.double().of(self.function)
                meta = call.to("meta").of(self.function)
            assert results["y"].dtype == dtype
            assert torch.equal(results["y"], expected)
            assert torch.equal(mixed, expected)
            assert (double.dtype, meta.dtype) == (torch.float64, torch.float32)
            assert {results[name].dtype for name in self.differentiable} == {torch.float32}

    # ---- Bad input --------------------------------------------------------------------------------------------------

    def test_bad_input(self, bad: BadInput) -> None:
        call = self.sample(self.shape, torch.float32, torch.device("cpu"))
        arguments = call.tensors | call.options | bad.change
        for autocast in (False, True):
            with torch.autocast("cpu", enabled=autocast), pytest.raises(bad.error, match=bad.message) as caught:
                self.function(**arguments)
            assert "\n" not in str(caught.value)
        if bad.compiled:
            from torch._dynamo.exc import TorchDynamoException  # takes a second to import

            torch.compiler.reset()
            compiled = torch.compile(self.function, fullgraph=True, backend="eager")
            with pytest.raises(TorchDynamoException, match=bad.message):
                compiled(**arguments)

    @pytest.mark.skipif(ops.HAS_CUDA, reason="built with CUDA kernels")
    def test_cuda_tensors_without_cuda_kernels(self) -> None:
        call = self.small()
        with FakeTensorMode():
            fake = call.map(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"))
            message = "is a CUDA tensor, but dgcn_ext was built without CUDA kernels"
            with pytest.raises(RuntimeError, match=f"{self.features[0]} {message}"):
                fake.of(self.function)
