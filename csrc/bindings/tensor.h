// Views of torch tensors handed over as Python objects, without torch's headers: torch (2.10 and later) offers a table of C
// functions behind `Tensor.__dlpack_c_exchange_api__` (DLPack 1.3, "C exchange API"), of which one describes a tensor in some 20
// ns. The structs below are that ABI's. Where the table is missing nothing here is served, and the caller goes the way through
// Python.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

namespace xecg::bindings {

namespace dlpack {
struct Tensor {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct ExchangeHeader {
    uint32_t major, minor;
    ExchangeHeader* older;
};
struct Exchange {
    ExchangeHeader header;
    void *allocate, *manage, *to_python;
    int (*describe)(void* object, Tensor* out);
    void* stream;
};
constexpr int32_t cpu = 1;
constexpr uint8_t floating = 2;
}  // namespace dlpack

// The tensor types that may be described, exactly: a subclass may mean something else by its data.
class TensorTypes {
  public:
    // Takes Tensor, Parameter and torch's function that counts writes for autograd; false when this torch has no such table.
    bool learn(pybind11::handle tensor, pybind11::handle parameter, pybind11::handle wrote) {
        const char* name = "__dlpack_c_exchange_api__";
        if (!pybind11::hasattr(tensor, name) || !pybind11::hasattr(tensor, "is_neg")) return false;
        const pybind11::object capsule = tensor.attr(name);
        auto* table = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (table == nullptr) PyErr_Clear();
        if (table == nullptr || table->header.major != 1 || table->describe == nullptr) return false;
        table_ = table;
        types_[0] = reinterpret_cast<PyTypeObject*>(tensor.ptr());
        types_[1] = reinterpret_cast<PyTypeObject*>(parameter.ptr());
        wrote_ = wrote.inc_ref();  // for good: no destructor may run after Python's end
        is_negated_ = pybind11::object(tensor.attr("is_neg")).release();
        return true;
    }

    // Tells autograd that these tensors were overwritten, as every in-place op of torch does.
    template <class... Tensors>
    void wrote(Tensors... tensors) const {
        const pybind11::object all =
            pybind11::reinterpret_steal<pybind11::object>(PyTuple_Pack(sizeof...(tensors), tensors.ptr()...));
        wrote_(all);
    }

    // Describes a float32 tensor of `rank` in CPU memory whose last dimension is contiguous, which holds something, and whose
    // values are those in memory (a view such as the imaginary part of a conjugate means their negative); else false.
    bool describe(pybind11::handle object, int32_t rank, dlpack::Tensor& t) const {
        if (Py_TYPE(object.ptr()) != types_[0] && Py_TYPE(object.ptr()) != types_[1]) return false;
        if (table_->describe(object.ptr(), &t) != 0) {
            PyErr_Clear();
            return false;
        }
        if (t.device_type != dlpack::cpu || t.code != dlpack::floating || t.bits != 32 || t.lanes != 1) return false;
        if (t.ndim != rank || t.strides == nullptr) return false;
        for (int32_t d = 0; d < rank; ++d)
            if (t.shape[d] == 0) return false;
        if (t.data == nullptr || (t.shape[rank - 1] != 1 && t.strides[rank - 1] != 1)) return false;
        if (t.shape[rank - 1] != 1) return true;  // the strides of a part of complex numbers are even
        const auto negated = pybind11::reinterpret_steal<pybind11::object>(PyObject_CallOneArg(is_negated_.ptr(), object.ptr()));
        if (!negated) PyErr_Clear();
        return negated.ptr() == Py_False;
    }

  private:
    const dlpack::Exchange* table_ = nullptr;
    PyTypeObject* types_[2] = {};
    pybind11::handle wrote_, is_negated_;
};

template <class T = float>
T* data_of(const dlpack::Tensor& t) {
    return reinterpret_cast<T*>(static_cast<char*>(t.data) + t.byte_offset);
}

template <class... Sizes>
bool has_shape(const dlpack::Tensor& t, Sizes... sizes) {
    int32_t d = 0;
    return ((t.shape[d++] == int64_t(sizes)) && ...);
}

// Addresses from the first to behind the last element.
struct Extent {
    uintptr_t begin, end;
};
inline Extent extent(const dlpack::Tensor& t) {
    int64_t low = 0, high = 0;
    for (int32_t d = 0; d < t.ndim; ++d) (t.strides[d] < 0 ? low : high) += (t.shape[d] - 1) * t.strides[d];
    const auto at = reinterpret_cast<uintptr_t>(data_of(t));
    return {at + uintptr_t(low * 4), at + uintptr_t((high + 1) * 4)};
}

// Whether none of the written tensors shares memory with another one or with one that is read.
template <size_t W, size_t R>
bool are_apart(const dlpack::Tensor* const (&written)[W], const dlpack::Tensor* const (&read)[R]) {
    Extent own[W];
    for (size_t i = 0; i < W; ++i) {
        own[i] = extent(*written[i]);
        for (size_t j = 0; j < i; ++j)
            if (own[i].begin < own[j].end && own[j].begin < own[i].end) return false;
    }
    for (size_t j = 0; j < R; ++j) {
        const Extent other = extent(*read[j]);
        for (size_t i = 0; i < W; ++i)
            if (own[i].begin < other.end && other.begin < own[i].end) return false;
    }
    return true;
}

inline bool is_contiguous(const dlpack::Tensor& t) {
    int64_t expected = 1;
    for (int32_t d = t.ndim - 1; d >= 0; --d) {
        if (t.shape[d] != 1 && t.strides[d] != expected) return false;
        expected *= t.shape[d];
    }
    return true;
}

}  // namespace xecg::bindings
