#define XECG_ISA base
#include "math_cases.h"
