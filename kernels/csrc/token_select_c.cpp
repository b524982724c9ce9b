// The launcher under C names, for callers without C++ (ctypes).
#include "token_select.h"

extern "C" {

__attribute__((visibility("default"))) const char* tokfilter_token_select_problem(
    const tokfilter::TokenSelectArgs* args) {
    return tokfilter::token_select_problem(*args);
}

__attribute__((visibility("default"))) int tokfilter_token_select(const tokfilter::TokenSelectArgs* args,
                                                                  CUstream_st* stream) {
    return tokfilter::token_select(*args, stream);
}
}
