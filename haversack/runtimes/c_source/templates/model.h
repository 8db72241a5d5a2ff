/* A neural network in plain C. Written by Haversack. */
#ifndef HAVERSACK_MODEL_H
#define HAVERSACK_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{sizes}

/* Bytes of static memory that it works in. */
#define HAVERSACK_MODEL_ARENA_BYTES {arena}

/* Numbers are integers: real ones are (integer - zero point) * scale. Maps lie row by row, the channels of a pixel side
   by side. Not to be called again before it is done. */
{signature};

/* Where the network has its inputs and outputs itself. Those that are handed over as such are not copied: then an input
   has to be written anew for each run, which works in its memory. */
{accessors}

#ifdef HAVERSACK_MODEL_CALLBACK
/* Yours: called after each layer with what it made; of layers that are computed in strips, with what is there whole. */
void haversack_model_after(int32_t layer, const void *values);
#endif

#ifdef __cplusplus
}}
#endif

#endif
