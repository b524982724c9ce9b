// The kernel that nvcc compiles, as host C++ over the CUDA-on-CPU layer.
#include "token_select.cu"
