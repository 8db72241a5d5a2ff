/* Decodes files of coded weights from standard input, each behind its size (4 bytes, little-endian), into buffers of
 * exactly the size that is asked for, and writes what was in them: a status byte a file, and behind OK the tensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "haversack_coded.h"

enum { LARGEST = 1 << 22 };

typedef struct {
    uint8_t *content;
    size_t size;
} text_t;

static void append(text_t *text, const void *from, size_t size) {
    text->content = realloc(text->content, text->size + size + 1);
    if (size) memcpy(text->content + text->size, from, size);
    text->size += size;
}

static void append32(text_t *text, uint32_t value) { append(text, &value, sizeof value); }

static haversack_coded_status tensor(haversack_coded_reader *reader, const haversack_coded_tensor *found, text_t *text) {
    haversack_coded_status status = HAVERSACK_CODED_OK;
    uint64_t bytes = (uint64_t)found->bytes;
    void *out;
    if (bytes > LARGEST || found->steps > LARGEST / 4) return HAVERSACK_CODED_BUFFER;
    append(text, found->name, strlen(found->name) + 1);
    append32(text, found->form), append32(text, found->type), append32(text, found->dimensions);
    for (int dimension = 0; dimension < found->dimensions; dimension++) append32(text, found->shape[dimension]);
    append32(text, found->bits), append32(text, found->is_signed), append32(text, found->is_narrow);
    append32(text, (uint32_t)found->axis), append32(text, found->steps), append32(text, found->has_zero_points);
    if (found->form == HAVERSACK_CODED_INTEGERS) {
        out = malloc(4 * (size_t)found->steps);
        status = haversack_coded_scale(reader, out, found->steps);
        if (status == HAVERSACK_CODED_OK) append(text, out, 4 * (size_t)found->steps);
        if (status == HAVERSACK_CODED_OK && found->has_zero_points) {
            status = haversack_coded_zero_points(reader, out, found->steps);
            if (status == HAVERSACK_CODED_OK) append(text, out, 4 * (size_t)found->steps);
        }
        free(out);
        if (status != HAVERSACK_CODED_OK) return status;
    }
    out = malloc((size_t)bytes);
    status = haversack_coded_values(reader, out, (size_t)bytes);
    append32(text, (uint32_t)bytes);
    if (status == HAVERSACK_CODED_OK) append(text, out, (size_t)bytes);
    free(out);
    return status;
}

static haversack_coded_status file(const uint8_t *content, size_t size, text_t *text) {
    static haversack_coded_reader reader;
    static haversack_coded_tensor found;
    haversack_coded_status status = haversack_coded_open(&reader, content, size);
    if (status != HAVERSACK_CODED_OK) return status;
    while ((status = haversack_coded_next(&reader, &found)) == HAVERSACK_CODED_OK)
        if ((status = tensor(&reader, &found, text)) != HAVERSACK_CODED_OK) return status;
    return status == HAVERSACK_CODED_END ? haversack_coded_close(&reader) : status;
}

int main(void) {
    uint8_t head[4];
    while (fread(head, 1, 4, stdin) == 4) {
        size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        uint8_t *content = malloc(size);
        text_t text = {NULL, 0};
        uint8_t status;
        if (fread(content, 1, size, stdin) != size) return 1;
        status = (uint8_t)file(content, size, &text);
        fputc(status, stdout);
        if (status == HAVERSACK_CODED_OK) {
            uint32_t length = (uint32_t)text.size;
            fwrite(&length, 4, 1, stdout);
            fwrite(text.content, 1, text.size, stdout);
        }
        free(text.content);
        free(content);
    }
    return 0;
}
