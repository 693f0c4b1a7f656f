#define XECG_ISA avx512
#include "math_cases.h"
