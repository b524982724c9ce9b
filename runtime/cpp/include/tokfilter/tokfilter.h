/* C interface: open an export directory, classify images, close.
 *
 * Every function returns a code; tokfilter_last_error() returns the message: expected value, actual value,
 * remedy. No exception leaves the library, and no error ends the process.
 *
 * A budget is a count of patch tokens, an integer from 1 to tokfilter_info.patches; 0 is the default budget.
 */
#ifndef TOKFILTER_TOKFILTER_H
#define TOKFILTER_TOKFILTER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TOKFILTER_API __attribute__((visibility("default")))
#else
#define TOKFILTER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tokfilter_code {
    TOKFILTER_OK = 0,
    TOKFILTER_ARGUMENT =
        1, /* an argument that no engine could serve: null, wrong shape, NaN, too little room */
    TOKFILTER_MANIFEST = 2,     /* no export directory, a damaged manifest, or no plan for these options */
    TOKFILTER_CHANGED_FILE = 3, /* a file is missing or differs from the manifest */
    TOKFILTER_VERSION = 4,      /* incompatible versions of TensorRT, plan, GPU or this library */
    TOKFILTER_PLUGIN = 5,       /* the plugin library cannot be loaded */
    TOKFILTER_NO_GPU = 6,       /* no driver, no GPU, or a driver that is too old */
    TOKFILTER_RANGE = 7,        /* a batch or budget outside the plan's range */
    TOKFILTER_CLOSED = 8,       /* used after close */
    TOKFILTER_BUSY = 9,         /* another thread is in a call */
    TOKFILTER_ENGINE = 10,      /* TensorRT or CUDA failed */
    TOKFILTER_MEMORY = 11,      /* out of memory, on the host or on the device */
    TOKFILTER_INTERNAL = 12     /* a bug in tokfilter */
} tokfilter_code;

typedef enum tokfilter_input {
    TOKFILTER_INPUT_FLOAT = 0,      /* [B, 3, H, W] float, normalised */
    TOKFILTER_INPUT_UINT8 = 1,      /* [B, 3, H, W], 8-bit pixels that the model normalises */
    TOKFILTER_INPUT_UINT8_NHWC = 2, /* [B, H, W, 3], likewise */
} tokfilter_input;

typedef struct tokfilter_engine tokfilter_engine;

/* Zero-initialise, set struct_size, then change fields as needed. */
typedef struct tokfilter_options {
    size_t struct_size;    /* sizeof(tokfilter_options) */
    int full;              /* 0: the filtered model; 1: the same weights with every token */
    const char* precision; /* "fp32", "fp16", "bf16"; NULL is "fp32" */
    int64_t tokens;        /* prefers a plan with exactly this fixed budget; 0: no preference */
    int device;            /* CUDA device index */
} tokfilter_options;

typedef struct tokfilter_info {
    size_t struct_size; /* sizeof(tokfilter_info), set by the caller */
    int64_t height, width;
    int64_t classes;                                 /* or numbers of the embedding */
    int64_t patches;                                 /* patch tokens of an image */
    int64_t batch_low, batch_high;                   /* both included */
    int64_t budget_low, budget_default, budget_high; /* in patch tokens */
    int has_indices;                                 /* whether the plan outputs the kept indices */
    tokfilter_input input;                           /* how the plan takes images */
    int embeds; /* whether the model gives an embedding in place of logits */
} tokfilter_info;

/* One call. Host memory for tokfilter_engine_run, device memory for tokfilter_engine_enqueue. */
typedef struct tokfilter_call {
    size_t struct_size;    /* sizeof(tokfilter_call) */
    const float* images;   /* normalised, contiguous; NULL where the plan takes pixels */
    const uint8_t* pixels; /* contiguous, for a plan that takes them */
    int64_t shape[4];      /* B, 3, H, W; B, H, W, 3 for TOKFILTER_INPUT_UINT8_NHWC */
    int64_t tokens;        /* budget: count of patch tokens; 0: the default */
    float* logits;         /* [B, classes], or the embedding */
    size_t logits_room;    /* capacity in floats */
    int32_t* indices;      /* [B, tokens], positions of the kept patches, ascending; may be NULL */
    size_t indices_room;   /* capacity in int32_t */
    void* stream;          /* cudaStream_t; NULL: the engine's own */
} tokfilter_call;

/* Times of one tokfilter_engine_run in milliseconds, from CUDA events. */
typedef struct tokfilter_timing {
    float h2d_ms, compute_ms, d2h_ms;
} tokfilter_timing;

/* Version of this library, e.g. "1.2.3". */
TOKFILTER_API const char* tokfilter_version(void);

/* Message of this thread's last error; "" if there was none. Valid until this thread's next call. */
TOKFILTER_API const char* tokfilter_last_error(void);

/* Open `directory`, written by `tokfilter export`. options may be NULL. *engine is NULL unless TOKFILTER_OK.
 */
TOKFILTER_API tokfilter_code tokfilter_engine_open(const char* directory, const tokfilter_options* options,
                                                   tokfilter_engine** engine);

TOKFILTER_API tokfilter_code tokfilter_engine_info(const tokfilter_engine* engine, tokfilter_info* info);

/* Name of the class with this index, or NULL if it has none. Valid until close. */
TOKFILTER_API const char* tokfilter_engine_class_name(const tokfilter_engine* engine, int64_t number);

/* pixels: [height, width, 3], 8-bit RGB, upright. input: room for 3 * H * W floats, written as [3, H, W]. */
TOKFILTER_API tokfilter_code tokfilter_engine_preprocess(const tokfilter_engine* engine,
                                                         const uint8_t* pixels, int64_t height, int64_t width,
                                                         float* input, size_t room);

/* The same for a plan that takes pixels. input: room for 3 * H * W bytes, written in the plan's order. */
TOKFILTER_API tokfilter_code tokfilter_engine_pixels(const tokfilter_engine* engine, const uint8_t* pixels,
                                                     int64_t height, int64_t width, uint8_t* input,
                                                     size_t room);

/* Classify images in host memory and wait for the result. timing may be NULL. */
TOKFILTER_API tokfilter_code tokfilter_engine_run(tokfilter_engine* engine, const tokfilter_call* call,
                                                  tokfilter_timing* timing);

/* Enqueue the classification of images in device memory on a stream and return at once. */
TOKFILTER_API tokfilter_code tokfilter_engine_enqueue(tokfilter_engine* engine, const tokfilter_call* call);

/* Release the engine and set *engine to NULL. Does nothing where it is NULL. TOKFILTER_BUSY: a call is
 * running; the engine stays open. */
TOKFILTER_API tokfilter_code tokfilter_engine_close(tokfilter_engine** engine);

#ifdef __cplusplus
}
#endif
#endif
