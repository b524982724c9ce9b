/* tokfilter for C and for every language that can call C: open an export directory, classify images, close.
 *
 * Every function returns a code; tokfilter_last_error() then says in words what was wanted, what was got and
 * what to do. No exception leaves the library and nothing ends the process.
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
    TOKFILTER_MANIFEST = 2, /* no export directory, a damaged manifest, or no plan in it that was asked for */
    TOKFILTER_CHANGED_FILE = 3, /* a file that is missing, or not the one that the manifest describes */
    TOKFILTER_VERSION = 4,      /* TensorRT, the plan and this library do not belong together */
    TOKFILTER_PLUGIN = 5,       /* the plugin library cannot be loaded */
    TOKFILTER_NO_GPU = 6,       /* no driver, no GPU, or a driver that is too old */
    TOKFILTER_RANGE = 7,        /* a batch or budget that the plan was not built for */
    TOKFILTER_CLOSED = 8,       /* used after close */
    TOKFILTER_BUSY = 9,         /* running now in another thread */
    TOKFILTER_ENGINE = 10,      /* TensorRT or CUDA failed */
    TOKFILTER_MEMORY = 11,      /* out of memory, on the host or on the device */
    TOKFILTER_INTERNAL = 12     /* a defect of ours */
} tokfilter_code;

typedef struct tokfilter_engine tokfilter_engine;

/* Zero-initialise, set struct_size, change what is wanted. */
typedef struct tokfilter_options {
    size_t struct_size;    /* sizeof(tokfilter_options) */
    int full;              /* 0: the filtered model; 1: the same weights with every token */
    const char* precision; /* "fp32", "fp16", "bf16"; NULL is "fp32" */
    int64_t tokens;        /* a plan made for exactly this budget comes first; 0: no preference */
    int device;            /* CUDA's number of the GPU */
} tokfilter_options;

typedef struct tokfilter_info {
    size_t struct_size; /* sizeof(tokfilter_info), set by the caller */
    int64_t height, width, classes;
    int64_t patches;                                 /* patch tokens of an image */
    int64_t batch_low, batch_high;                   /* both included */
    int64_t budget_low, budget_default, budget_high; /* in patch tokens */
    int has_indices;                                 /* whether the plan tells which tokens were kept */
} tokfilter_info;

/* One call. Host memory for tokfilter_engine_run, device memory for tokfilter_engine_enqueue. */
typedef struct tokfilter_call {
    size_t struct_size;  /* sizeof(tokfilter_call) */
    const float* images; /* [B, 3, H, W], normalised, contiguous */
    int64_t shape[4];    /* B, 3, H, W */
    int64_t tokens;      /* budget in patch tokens; 0: the default */
    float* logits;       /* [B, classes] */
    size_t logits_room;  /* how many floats fit */
    int32_t* indices;    /* [B, tokens], positions of the kept patches, ascending; may be NULL */
    size_t indices_room; /* how many int32_t fit */
    void* stream;        /* cudaStream_t; NULL: the engine's own */
} tokfilter_call;

/* Where the time of one tokfilter_engine_run went, in milliseconds, by CUDA events. */
typedef struct tokfilter_timing {
    float h2d_ms, compute_ms, d2h_ms;
} tokfilter_timing;

/* "1.2.3", of this library. */
TOKFILTER_API const char* tokfilter_version(void);

/* What the last failed call of this thread says; "" after none. Valid until this thread's next call. */
TOKFILTER_API const char* tokfilter_last_error(void);

/* Open `directory`, written by `tokfilter export`. options may be NULL. *engine is NULL unless TOKFILTER_OK.
 */
TOKFILTER_API tokfilter_code tokfilter_engine_open(const char* directory, const tokfilter_options* options,
                                                   tokfilter_engine** engine);

TOKFILTER_API tokfilter_code tokfilter_engine_info(const tokfilter_engine* engine, tokfilter_info* info);

/* The name of a class, or NULL where the model names none of that number. Valid until close. */
TOKFILTER_API const char* tokfilter_engine_class_name(const tokfilter_engine* engine, int64_t number);

/* pixels: [height, width, 3], 8-bit RGB, upright. input: room for 3 * H * W floats, written as [3, H, W]. */
TOKFILTER_API tokfilter_code tokfilter_engine_preprocess(const tokfilter_engine* engine,
                                                         const uint8_t* pixels, int64_t height, int64_t width,
                                                         float* input, size_t room);

/* Classify images in host memory and wait for the result. timing may be NULL. */
TOKFILTER_API tokfilter_code tokfilter_engine_run(tokfilter_engine* engine, const tokfilter_call* call,
                                                  tokfilter_timing* timing);

/* Put the classification of images in device memory on a stream and return at once. */
TOKFILTER_API tokfilter_code tokfilter_engine_enqueue(tokfilter_engine* engine, const tokfilter_call* call);

/* Release the engine and set *engine to NULL. Does nothing where it is NULL. TOKFILTER_BUSY: it runs, and
 * stays open. */
TOKFILTER_API tokfilter_code tokfilter_engine_close(tokfilter_engine** engine);

#ifdef __cplusplus
}
#endif
#endif
