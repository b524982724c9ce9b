// The launcher with C linkage, for ctypes.
#include "token_select.h"

extern "C" {

__attribute__((visibility("default"))) const char* tokfilter_validate_token_select(
    const tokfilter::TokenSelectArgs* args) {
    return tokfilter::validate_token_select(*args);
}

__attribute__((visibility("default"))) int tokfilter_token_select(const tokfilter::TokenSelectArgs* args,
                                                                  CUstream_st* stream) {
    return tokfilter::token_select(*args, stream);
}
}
