// Arrays between Python and the scheduler: views without copies outwards, checked integers inwards.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "scheduler/core/contract/errors.h"

namespace tokenspeed {

namespace py = pybind11;

// A read-only numpy view of a column that keeps its owner alive.
template <class T>
py::object read_only_view(const std::vector<T>& column, py::handle owner, const py::dtype& dtype) {
    py::array array(dtype, {static_cast<py::ssize_t>(column.size())}, {static_cast<py::ssize_t>(sizeof(T))},
                    column.data(), owner);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

// The object as an array, itself if it is one; empty if it cannot be.
inline py::array array_of(py::handle given) {
    return py::isinstance<py::array>(given) ? py::reinterpret_borrow<py::array>(given) : py::array::ensure(given);
}

// The array itself if its elements lie side by side, else a copy where they do.
inline py::array lined_up(py::array given) {
    constexpr int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((given.flags() & wanted) == wanted) return given;
    return py::array::ensure(given, wanted);
}

// One-dimensional integers of type T. An array of exactly this type is used without a copy; arrays of other integers
// and sequences of Python integers are converted; whatever does not fit T raises Error, which names field and value.
template <class T, class Error>
class IntegerInput {
  public:
    IntegerInput(py::handle given, const char* field) : field_(field) {
        if (PyList_Check(given.ptr()) || PyTuple_Check(given.ptr())) {
            from_sequence(given);
        } else {
            from_array(array_of(given));
        }
    }

    std::span<const T> span() const { return values_; }

  private:
    void from_array(py::array given) {
        if (!given) throw Error(field_ + " must be a one-dimensional array of integers");
        if (given.ndim() != 1) {
            throw Error(field_ + " has " + std::to_string(given.ndim()) + " dimensions; it must have one");
        }
        const char kind = given.dtype().kind();
        if (given.size() == 0) return;
        if (kind == 'i') {
            convert<std::int64_t>(std::move(given));
        } else if (kind == 'u') {
            convert<std::uint64_t>(std::move(given));
        } else {
            throw Error(field_ + " has dtype " + py::str(given.dtype()).cast<std::string>() + "; it must be integers");
        }
    }

    template <class Widest>
    void convert(py::array given) {
        constexpr auto contiguous = py::array::c_style | py::array::forcecast;
        if (given.dtype().is(py::dtype::of<T>())) {
            const py::array array = lined_up(std::move(given));
            values_ = {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
            owner_ = array;
            return;
        }
        const py::array_t<Widest, contiguous> wide(std::move(given));
        const Widest* const values = wide.data();
        copy_.reserve(static_cast<std::size_t>(wide.size()));
        for (py::ssize_t i = 0; i < wide.size(); ++i) {
            if (!std::in_range<T>(values[i])) refuse(i, std::to_string(values[i]));
            copy_.push_back(static_cast<T>(values[i]));
        }
        values_ = copy_;
    }

    void from_sequence(py::handle given) {
        const py::ssize_t size = PySequence_Fast_GET_SIZE(given.ptr());
        copy_.reserve(static_cast<std::size_t>(size));
        for (py::ssize_t i = 0; i < size; ++i) {
            // An element's __index__ may change the list, so its size is read anew.
            if (i >= PySequence_Fast_GET_SIZE(given.ptr())) throw Error(field_ + " changed while it was read");
            PyObject* const item = PySequence_Fast_GET_ITEM(given.ptr(), i);
            copy_.push_back(PyLong_CheckExact(item) ? number(item, i) : indexed(item, i));
        }
        values_ = copy_;
    }

    T number(PyObject* item, py::ssize_t i) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(item, &overflow);
        if (overflow == 0 && std::in_range<T>(value)) [[likely]]
            return static_cast<T>(value);
        if constexpr (std::is_unsigned_v<T>) {
            const unsigned long long large = PyLong_AsUnsignedLongLong(item);
            if (!PyErr_Occurred()) return large;
            PyErr_Clear();
        }
        refuse(i, shortened(item));
    }

    // numpy scalars and the like; a bool is not a number here.
    T indexed(PyObject* item, py::ssize_t i) {
        const auto keep = py::reinterpret_borrow<py::object>(item);
        if (PyBool_Check(item) || !PyIndex_Check(item)) refuse(i, shortened(item));
        const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item));
        if (!index) throw py::error_already_set();
        return number(index.ptr(), i);
    }

    static std::string shortened(PyObject* item) {
        try {
            const auto text = py::repr(item).cast<std::string>();
            return text.size() <= 40 ? text : text.substr(0, 37) + "...";
        } catch (const py::error_already_set&) {  // an integer of thousands of digits is not printed
            return std::string("a huge ") + Py_TYPE(item)->tp_name;
        }
    }

    [[noreturn]] void refuse(py::ssize_t i, const std::string& value) const {
        throw Error(field_ + "[" + std::to_string(i) + "] is " + value + "; it must be an integer from " +
                    std::to_string(std::numeric_limits<T>::min()) + " to " +
                    std::to_string(std::numeric_limits<T>::max()));
    }

    std::string field_;
    py::object owner_;
    std::vector<T> copy_;
    std::span<const T> values_;
};

// One-dimensional booleans, or None for none.
class FlagInput {
  public:
    FlagInput(py::handle given, const char* field) : given_(!given.is_none()) {
        if (!given_) return;
        py::array array = array_of(given);
        if (!array || array.ndim() != 1) throw BadResults(std::string(field) + " must be a one-dimensional array");
        if (array.size() == 0) return;
        if (array.dtype().kind() != 'b') {
            throw BadResults(std::string(field) + " has dtype " + py::str(array.dtype()).cast<std::string>() +
                             "; it must be bool");
        }
        array = lined_up(std::move(array));
        values_ = {static_cast<const std::uint8_t*>(array.data()), static_cast<std::size_t>(array.size())};
        owner_ = array;
    }

    bool given() const { return given_; }
    std::span<const std::uint8_t> span() const { return values_; }

  private:
    bool given_;
    py::object owner_;
    std::span<const std::uint8_t> values_;
};

}  // namespace tokenspeed
