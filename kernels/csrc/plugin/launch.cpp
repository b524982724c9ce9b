#include "launch.h"

#include <cuda_runtime_api.h>

#include <string>

#include "call.h"
#include "check_args.h"
#include "log.h"
#include "text.h"

namespace tokfilter {
namespace {

// Empty, or the launcher's error.
std::string launch(const TokenSelectArgs& args, const nvinfer1::Dims& tokens, cudaStream_t stream,
                   std::int32_t& status) {
    status = token_select(args, stream);
    if (status == cudaSuccess) {
        return {};
    }
    if (const char* message = validate_token_select(args)) {
        return text("the kernel rejects the call: ", message);
    }
    const auto error = static_cast<cudaError_t>(status);
    return text("the kernel was not launched for tokens ", tokens, " and k ", args.k, ": ",
                cudaGetErrorName(error), ", ", cudaGetErrorString(error), ".");
}

}  // namespace

std::int32_t enqueue_call(const Config& config, const char* layer,
                          const nvinfer1::PluginTensorDesc* input_descs,
                          const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                          void* const* outputs, cudaStream_t stream) noexcept {
    return guarded<std::int32_t>(layer, "enqueue", cudaErrorUnknown, [&] {
        TokenSelectArgs args{};
        std::int32_t status = cudaErrorInvalidValue;
        std::string error =
            read_call(config, input_descs, config.k == 0 ? 3 : 2, output_descs, kOutputs, args);
        if (error.empty()) {
            args.tokens = inputs[kTokens];
            args.scores = inputs[kScores];
            args.selected = outputs[kSelected];
            args.indices = static_cast<std::int32_t*>(outputs[kIndices]);
            error = launch(args, input_descs[kTokens].dims, stream, status);
        }
        if (!error.empty()) {
            log_message(Severity::kERROR, layer, error);
        }
        return status;
    });
}

}  // namespace tokfilter
