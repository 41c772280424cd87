// Every operator schema of dgcn_ext, and the Python module of this library. graph_conv/graph_conv.cpp and
// nonlocal/nonlocal.cpp register the implementations; fake functions and gradients are in dgcn_ext/ops.py.
#include "registration.h"

#include <Python.h>
#include <torch/csrc/stable/library.h>

// Weak, so that a program without Python can load this library for its operators. Only this symbol needs it: a variable
// is resolved when the library is loaded, a function when it is first called.
#pragma weak PyExc_ImportError

namespace dgcn {
namespace {

constexpr const char* kSchemas[] = {
    "graph_conv_forward(Tensor x, Tensor edge_weight, Tensor adjacency, Tensor? weight, Tensor? bias, "
    "Tensor? residual, Tensor? seed, bool per_sample, bool mask, bool target, bool relu, SymInt first_sample=0) "
    "-> Tensor",
    "graph_conv_forward_gate(Tensor x, Tensor edge_weight, Tensor adjacency, Tensor? weight, Tensor? bias, "
    "Tensor? residual, Tensor? seed, bool per_sample, bool mask, bool target, SymInt first_sample=0) "
    "-> (Tensor y, Tensor gate)",
    "graph_conv_backward(Tensor grad_y, Tensor x, Tensor? gate, Tensor edge_weight, Tensor adjacency, Tensor? weight, "
    "Tensor? bias, Tensor? seed, bool per_sample, bool mask, bool target, bool relu, bool need_x, bool need_params, "
    "SymInt first_sample=0) -> (Tensor grad_x, Tensor grad_edge_weight, Tensor grad_weight, Tensor grad_bias)",
    "sample_adjacency(Tensor adjacency, Tensor seed, int? batch, SymInt first_sample=0) -> Tensor",
    "relu_affinity_forward(Tensor a, Tensor b, Tensor g) -> Tensor",
    "relu_affinity_forward_saving(Tensor a, Tensor b, Tensor g) -> (Tensor y, Tensor order, Tensor states)",
    "relu_affinity_backward(Tensor grad_y, Tensor a, Tensor b, Tensor g, bool need_keys, bool need_g, "
    "Tensor? order=None, Tensor? states=None) -> (Tensor grad_a, Tensor grad_b, Tensor grad_g)",
};

// Does what the macro STABLE_TORCH_LIBRARY does, but returns false if the namespace or an operator is already defined.
// The macro would throw while the library is being loaded, which ends the process.
bool define_operators() {
  TorchLibraryHandle library = nullptr;
  if (aoti_torch_library_init_def("dgcn", __FILE__, __LINE__, &library) != AOTI_TORCH_SUCCESS) return false;
  for (const char* schema : kSchemas) {
    if (aoti_torch_library_def(library, schema) == AOTI_TORCH_SUCCESS) continue;
    aoti_torch_delete_library_object(library);  // removes the operators defined so far
    return false;
  }
  return true;  // `library` is never deleted: the operators live as long as the process
}

}  // namespace

bool owns_operators() {
  static const bool owns = define_operators();
  return owns;
}

}  // namespace dgcn

// The operators register themselves when the shared object is loaded; the Python module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  if (!dgcn::owns_operators()) {
    PyErr_SetString(PyExc_ImportError,
                    "torch.ops.dgcn is taken: this process has loaded another library of that name, or another copy of "
                    "this one; start it again with only one of them");
    return nullptr;
  }
  return PyModule_Create(&module);
}
