// Every operator schema of dgcn_ext, and the module that carries them. Each implementation is registered at the foot of
// its kernel's file; fake functions and gradients are in dgcn_ext/ops.py, argument legends in the kernels' headers.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dgcn, m) {
  m.def(
      "graph_conv_forward(Tensor x, Tensor edge_weight, Tensor adjacency, Tensor? weight, Tensor? bias, Tensor? "
      "residual, "
      "Tensor? seed, bool per_sample, bool mask, bool target, bool relu) -> Tensor");
  m.def(
      "graph_conv_backward(Tensor grad_y, Tensor x, Tensor? y, Tensor edge_weight, Tensor adjacency, Tensor? weight, "
      "Tensor? bias, Tensor? seed, bool per_sample, bool mask, bool target, bool relu, bool need_x, bool need_params) "
      "-> (Tensor grad_x, Tensor grad_edge_weight, Tensor grad_weight, Tensor grad_bias)");
  m.def("sample_adjacency(Tensor adjacency, Tensor seed, int? batch) -> Tensor");
  m.def("relu_affinity_forward(Tensor a, Tensor b, Tensor g) -> Tensor");
  m.def(
      "relu_affinity_backward(Tensor grad_y, Tensor a, Tensor b, Tensor g, bool need_keys, bool need_g) "
      "-> (Tensor grad_a, Tensor grad_b, Tensor grad_g)");
}

// The operators register themselves when the shared object is loaded; the Python module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
