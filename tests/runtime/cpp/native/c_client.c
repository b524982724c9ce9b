/* c_client DIRECTORY: calls the C interface on the fake model; prints "ok" when the result is right. */
#include <stdio.h>
#include <string.h>
#include <tokfilter/tokfilter.h>

static int fail(const char* what) {
    fprintf(stderr, "%s: %s\n", what, tokfilter_last_error());
    return 1;
}

int main(int count, char** values) {
    tokfilter_engine* engine = NULL;
    tokfilter_options options;
    tokfilter_info info;
    tokfilter_call call;
    tokfilter_timing timing;
    float images[3 * 8 * 6] = {1.0F};
    float logits[5];
    int32_t indices[12];
    memset(&options, 0, sizeof options);
    memset(&call, 0, sizeof call);
    options.struct_size = sizeof options;
    info.struct_size = sizeof info;
    call.struct_size = sizeof call;
    if (count != 2) return 2;
    if (tokfilter_engine_open(values[1], &options, &engine) != TOKFILTER_OK) return fail("open");
    if (tokfilter_engine_info(engine, &info) != TOKFILTER_OK) return fail("info");
    call.images = images;
    call.shape[0] = 1;
    call.shape[1] = 3;
    call.shape[2] = info.height;
    call.shape[3] = info.width;
    call.tokens = info.budget_high;
    call.logits = logits;
    call.logits_room = 5;
    call.indices = indices;
    call.indices_room = 12;
    if (tokfilter_engine_run(engine, &call, &timing) != TOKFILTER_OK) return fail("run");
    if (logits[4] != 5.0F + 12.0F || indices[11] != 11 ||
        strcmp(tokfilter_engine_class_name(engine, 4), "eel") != 0)
        return fail("wrong answer");
    call.tokens = 13;
    if (tokfilter_engine_run(engine, &call, NULL) != TOKFILTER_RANGE) return fail("a budget out of range");
    printf("%s\n", tokfilter_last_error());
    if (tokfilter_engine_close(&engine) != TOKFILTER_OK || engine != NULL) return fail("close");
    printf("tokfilter %s ok\n", tokfilter_version());
    return 0;
}
