/* Reads the coded weights that haversack writes (docs/format.md): C99, no heap, and of libc only memcpy, memset and memcmp.
 *
 *     static haversack_coded_reader reader;
 *     haversack_coded_tensor tensor;
 *     if (haversack_coded_open(&reader, file, size) != HAVERSACK_CODED_OK) ...
 *     while (haversack_coded_next(&reader, &tensor) == HAVERSACK_CODED_OK) {
 *         if (tensor.form == HAVERSACK_CODED_INTEGERS) {
 *             haversack_coded_scale(&reader, scale, tensor.steps);
 *             if (tensor.has_zero_points) haversack_coded_zero_points(&reader, zero_points, tensor.steps);
 *         }
 *         haversack_coded_values(&reader, values, sizeof values);
 *     }
 *     if (haversack_coded_close(&reader) != HAVERSACK_CODED_OK) ...
 *
 * The file stays where it is (flash) while it is read. Tensors come in the file's order, and all of a tensor must be
 * read before the next. Whatever the file holds, nothing is read outside it and nothing is written outside the caller's
 * buffers.
 */
#ifndef HAVERSACK_CODED_H
#define HAVERSACK_CODED_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HAVERSACK_CODED_MOST_DIMENSIONS 8
#define HAVERSACK_CODED_MOST_TABLES 7
#define HAVERSACK_CODED_MOST_LANES 64

typedef enum {
    HAVERSACK_CODED_OK = 0,
    HAVERSACK_CODED_END,      /* no tensor is left */
    HAVERSACK_CODED_FOREIGN,  /* not a file of coded weights */
    HAVERSACK_CODED_NEWER,    /* written in a later version of the format */
    HAVERSACK_CODED_CHECKSUM, /* damaged or cut off */
    HAVERSACK_CODED_DAMAGED,  /* the checksum is right, and what the file says is not possible */
    HAVERSACK_CODED_BUFFER,   /* the caller's buffer has another size */
    HAVERSACK_CODED_ORDER     /* something else of the tensor comes first */
} haversack_coded_status;

typedef enum {
    HAVERSACK_CODED_RAW = 0,      /* values of `type` */
    HAVERSACK_CODED_INTEGERS = 1, /* int8, uint8, int16 or uint16: real = (integer - zero point) * scale */
    HAVERSACK_CODED_CODEBOOK = 2  /* float: looked up while they are read */
} haversack_coded_form;

typedef enum {
    HAVERSACK_CODED_FLOAT32 = 0,
    HAVERSACK_CODED_FLOAT16,
    HAVERSACK_CODED_FLOAT64,
    HAVERSACK_CODED_INT8,
    HAVERSACK_CODED_UINT8,
    HAVERSACK_CODED_INT16,
    HAVERSACK_CODED_UINT16,
    HAVERSACK_CODED_INT32,
    HAVERSACK_CODED_INT64
} haversack_coded_type;

typedef struct {
    char name[256]; /* UTF-8, ends with 0 */
    haversack_coded_form form;
    haversack_coded_type type; /* of the values */
    uint8_t dimensions;
    uint32_t shape[HAVERSACK_CODED_MOST_DIMENSIONS];
    uint32_t elements;
    uint32_t bytes; /* how large a buffer the values need */
    /* of integers alone: */
    uint8_t bits, is_signed, is_narrow, has_zero_points;
    int8_t axis; /* of the steps; -1 where there is one for all */
    uint32_t steps;
} haversack_coded_tensor;

typedef struct {
    uint16_t starts[257];     /* where each symbol's slots begin, and 2^14 after the last */
    uint8_t first[256];       /* the symbol of each 64th slot */
} haversack_coded_table;

/* The decoder's memory, some 8 kB; nothing in it is for the caller. */
typedef struct {
    const uint8_t *content;
    size_t head, tail; /* the head is read upwards from here, and the words downwards from there */
    uint32_t states[HAVERSACK_CODED_MOST_LANES];
    uint32_t lanes, left, centroid_count, name_length;
    int stage;
    uint8_t kind, mask; /* of a raw tensor */
    haversack_coded_tensor tensor;
    haversack_coded_table tables[HAVERSACK_CODED_MOST_TABLES];
    uint32_t centroids[256]; /* the bits of each float */
    char name[256];
} haversack_coded_reader;

/* Checks that `content` is a whole file of a known version. */
haversack_coded_status haversack_coded_open(haversack_coded_reader *reader, const uint8_t *content, size_t size);
/* Describes the next tensor; HAVERSACK_CODED_END after the last. */
haversack_coded_status haversack_coded_next(haversack_coded_reader *reader, haversack_coded_tensor *tensor);
/* The tensor's `steps` steps. */
haversack_coded_status haversack_coded_scale(haversack_coded_reader *reader, float *out, size_t count);
/* The tensor's `steps` zero points; all are 0 where `has_zero_points` is 0, and this is not called. */
haversack_coded_status haversack_coded_zero_points(haversack_coded_reader *reader, int32_t *out, size_t count);
/* The tensor's values into `out`, which holds at least `bytes` bytes. */
haversack_coded_status haversack_coded_values(haversack_coded_reader *reader, void *out, size_t bytes);
/* Checks, after the last tensor, that the whole file was read and came out right. */
haversack_coded_status haversack_coded_close(const haversack_coded_reader *reader);

#ifdef __cplusplus
}
#endif

#endif
