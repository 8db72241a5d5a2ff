/* A neural network in plain C. Written by Haversack. */
#include "model.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
#error "weights are stored for cores whose lowest byte comes first"
#endif

{switches}

{kernels}
{constants}

static int32_t arena[{words}];

#ifdef HAVERSACK_MODEL_CALLBACK
#define HAVERSACK_MODEL_AFTER(layer, values) haversack_model_after((layer), (values))
#else
#define HAVERSACK_MODEL_AFTER(layer, values) ((void)0)
#endif

{signature}
{{
    int8_t *const memory = (int8_t *)arena;
{body}
}}

{accessors}
