// What the files of xecg._cpu share: kernels run on the pool with the GIL released, and what each file adds to the module.
#pragma once
#include <pybind11/pybind11.h>

#include "../common/conv1d.h"
#include "../common/mlstm.h"
#include "../common/slstm.h"

namespace xecg::bindings {

void run(const Conv1dForward& a);
void run(const MlstmStep& a);
void run(const SlstmForward& a);

void define_steps(pybind11::module_& m);
void define_qrs(pybind11::module_& m);
void define_quality(pybind11::module_& m);

}  // namespace xecg::bindings
