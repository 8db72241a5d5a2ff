/* See haversack_coded.h for how to call this, and docs/format.md for what the file holds. */
#include "haversack_coded.h"

#include <string.h>

enum { PACKED = 0, CODED = 1, SPLIT = 2, BESIDE = 0x41, BORDERS = 4, HALVED = 9, PRECISION = 14, TOTAL = 1 << PRECISION, CONSTANT = 7 };
enum { NARROW = 0x10, UNSIGNED = 0x20, SHIFTED = 0x40 };
enum { NAMED, SCALE, ZERO_POINTS, VALUES, FAILED };
enum { START = 5, CHECKSUM = 4 };

#define OK HAVERSACK_CODED_OK
#define DAMAGED HAVERSACK_CODED_DAMAGED
#define LOWEST 65536u
#define TRY(call)                                 \
    do {                                          \
        haversack_coded_status status_ = (call);  \
        if (status_ != OK) return status_;        \
    } while (0)

typedef haversack_coded_reader reader_t;
typedef haversack_coded_status status_t;

/* How rows and columns pick one of several tables; the classes lie in the file. */
typedef struct {
    const uint8_t *rows, *columns;
    uint32_t row_bits, column_bits, column_count, inner;
} classes_t;

/* Where a plane's bytes go: element i at out[i * stride]. */
typedef struct {
    uint8_t *out;
    size_t stride;
    uint32_t size;
    const haversack_coded_tensor *shaped; /* NULL for a plane without rows and columns */
} place_t;

static uint32_t checksum(const uint8_t *content, size_t size) {
    uint32_t table[16], state = 0xFFFFFFFFu;
    for (uint32_t index = 0; index < 16; index++) {
        uint32_t value = index;
        for (int bit = 0; bit < 4; bit++) value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        table[index] = value;
    }
    for (size_t at = 0; at < size; at++) {
        state ^= content[at];
        state = state >> 4 ^ table[state & 15];
        state = state >> 4 ^ table[state & 15];
    }
    return ~state;
}

static uint32_t little32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* ---- the head ---- */

static status_t take(reader_t *r, size_t count, const uint8_t **from) {
    if (count > r->tail - r->head) return DAMAGED;
    *from = r->content + r->head;
    r->head += count;
    return OK;
}

static status_t take_byte(reader_t *r, uint32_t *value) {
    const uint8_t *from;
    TRY(take(r, 1, &from));
    *value = *from;
    return OK;
}

static status_t take_varint(reader_t *r, uint32_t *value) {
    uint32_t group;
    *value = 0;
    for (uint32_t shift = 0; shift < 35; shift += 7) {
        TRY(take_byte(r, &group));
        if (shift == 28 && group > 0xF) return DAMAGED; /* more than 32 bits */
        *value |= (group & 0x7F) << shift;
        if (group < 0x80) return OK;
    }
    return DAMAGED;
}

static uint32_t width_of(uint32_t count) {
    uint32_t width = 0;
    while ((1u << width) < count) width++;
    return width;
}

/* Number `index` of those packed in `width` bits, which is at most 8. */
static uint32_t unpacked(const uint8_t *from, uint32_t width, uint32_t index) {
    uint64_t bit = (uint64_t)index * width;
    uint32_t low = (uint32_t)(bit & 7), value;
    if (!width) return 0;
    from += bit >> 3;
    value = (uint32_t)from[0] >> low;
    if (low + width > 8) value |= (uint32_t)from[1] << (8 - low);
    return value & ((1u << width) - 1);
}

static uint64_t packed_bytes(uint32_t width, uint32_t count) { return ((uint64_t)width * count + 7) / 8; }

static status_t take_packed(reader_t *r, uint32_t width, uint32_t count, const uint8_t **from) {
    uint64_t bytes = packed_bytes(width, count);
    if (bytes > r->tail - r->head) return DAMAGED;
    return take(r, (size_t)bytes, from);
}

static status_t take_name(reader_t *r) {
    static const char endings[3][8] = {"", ".weight", ".bias"};
    static const uint8_t lengths[3] = {0, 7, 5};
    uint32_t first, added, shared, ending;
    const uint8_t *from;
    TRY(take_byte(r, &first));
    ending = first & 3;
    shared = first >> 2;
    if (ending == 3 || shared > r->name_length) return DAMAGED;
    TRY(take_byte(r, &added));
    TRY(take(r, added, &from));
    if (shared + added + lengths[ending] > 255) return DAMAGED;
    for (uint32_t index = 0; index < added; index++)
        if (!from[index]) return DAMAGED;
    memcpy(r->name + shared, from, added);
    memcpy(r->name + shared + added, endings[ending], lengths[ending]);
    r->name_length = shared + added + lengths[ending];
    r->name[r->name_length] = 0;
    return OK;
}

/* ---- frequency tables ---- */

typedef struct {
    uint32_t byte, left;
} bits_t;

static status_t take_bits(reader_t *r, bits_t *bits, uint32_t width, uint32_t *value) {
    *value = 0;
    for (uint32_t place = 0; place < width; place++) {
        if (!bits->left) {
            TRY(take_byte(r, &bits->byte));
            bits->left = 8;
        }
        *value |= (bits->byte & 1) << place;
        bits->byte >>= 1;
        bits->left--;
    }
    return OK;
}

static status_t take_golomb(reader_t *r, bits_t *bits, uint32_t order, uint32_t *value) {
    uint32_t extra = 0, bit, rest;
    for (;;) {
        TRY(take_bits(r, bits, 1, &bit));
        if (bit) break;
        if (++extra > 16) return DAMAGED;
    }
    TRY(take_bits(r, bits, extra + order, &rest));
    *value = (1u << (extra + order)) + rest - (1u << order);
    return OK;
}

/* What a code stands for: at most 2^19. */
static uint32_t weight_of(uint32_t code, uint32_t steps) {
    if (!code) return 0;
    return ((1u << steps) + ((code - 1) & ((1u << steps) - 1))) << ((code - 1) >> steps);
}

static void set_first(haversack_coded_table *table, uint32_t count) {
    uint32_t symbol = 0;
    for (uint32_t bucket = 0; bucket < 256; bucket++) {
        while (symbol + 1 < count && table->starts[symbol + 1] <= bucket << (PRECISION - 8)) symbol++;
        table->first[bucket] = (uint8_t)symbol;
    }
}

/* Frequencies in proportion to weights, at least 1 where there is a weight, which add up to 2^14. */
static status_t set_starts(haversack_coded_table *table, const uint32_t *weights, uint32_t count) {
    uint64_t whole = 0, sum = 0;
    uint32_t present = 0, before = 0;
    for (uint32_t symbol = 0; symbol < count; symbol++) {
        whole += weights[symbol];
        present += weights[symbol] > 0;
    }
    if (!whole) return DAMAGED;
    for (uint32_t symbol = 0; symbol < count; symbol++) {
        table->starts[symbol] = (uint16_t)(before + sum * (TOTAL - present) / whole);
        before += weights[symbol] > 0;
        sum += weights[symbol];
    }
    table->starts[count] = TOTAL;
    return OK;
}

static status_t take_codes(reader_t *r, bits_t *bits, uint32_t count, uint32_t *weights) {
    uint32_t knots, steps, order, folded, apart, before = 0;
    int32_t code = 0;
    TRY(take_bits(r, bits, 3, &knots));
    if (knots == CONSTANT) {
        TRY(take_bits(r, bits, 8, &folded));
        if (folded >= count) return DAMAGED;
        memset(weights, 0, count * sizeof *weights);
        weights[folded] = 1;
        return OK;
    }
    if (knots > 5) return DAMAGED;
    TRY(take_bits(r, bits, 2, &steps));
    TRY(take_bits(r, bits, 2, &order));
    apart = 1u << knots;
    for (uint32_t symbol = 0;; symbol += apart) {
        uint32_t weight;
        TRY(take_golomb(r, bits, order, &folded));
        code += (int32_t)(folded >> 1) ^ -(int32_t)(folded & 1);
        if (code < 0 || code > (16 << steps)) return DAMAGED;
        weight = weight_of((uint32_t)code, steps);
        if (symbol < count) weights[symbol] = weight;
        for (uint32_t part = 1; symbol && part < apart; part++) {
            uint32_t line = (before * (apart - part) + weight * part) >> knots;
            if (symbol - apart + part < count) weights[symbol - apart + part] = line ? line : 1;
        }
        if (knots && symbol < count && !weight) weights[symbol] = 1;
        before = weight;
        if (symbol + 1 >= count) return OK;
    }
}

static status_t take_tables(reader_t *r, uint32_t count, uint32_t tables) {
    bits_t bits = {0, 0};
    uint32_t weights[256];
    for (uint32_t index = 0; index < tables; index++) {
        TRY(take_codes(r, &bits, count, weights));
        TRY(set_starts(&r->tables[index], weights, count));
        set_first(&r->tables[index], count);
    }
    return OK;
}

/* ---- the coded part ---- */

static status_t take_word(reader_t *r, uint32_t *word) {
    if (r->tail - r->head < 2) return DAMAGED;
    r->tail -= 2;
    *word = (uint32_t)r->content[r->tail] | (uint32_t)r->content[r->tail + 1] << 8;
    return OK;
}

static status_t start_lanes(reader_t *r) {
    uint32_t high, low;
    for (uint32_t lane = 0; lane < r->lanes; lane++) {
        TRY(take_word(r, &high));
        TRY(take_word(r, &low));
        r->states[lane] = high << 16 | low;
    }
    return OK;
}

/* `size` symbols by one table, beginning in `lane`, `low` added to each. */
static status_t run(reader_t *r, const haversack_coded_table *table, uint8_t *out, size_t stride, uint32_t size,
                    uint32_t *first_lane, uint32_t low) {
    uint32_t lane = *first_lane, lanes = r->lanes;
    if (!lanes) return DAMAGED;
    for (uint32_t index = 0; index < size; index++) {
        uint32_t state = r->states[lane], slot = state & (TOTAL - 1), symbol = table->first[slot >> (PRECISION - 8)];
        while (table->starts[symbol + 1] <= slot) symbol++;
        state = (uint32_t)(table->starts[symbol + 1] - table->starts[symbol]) * (state >> PRECISION) + slot -
                table->starts[symbol];
        if (state < LOWEST) {
            uint32_t word;
            TRY(take_word(r, &word));
            state = state << 16 | word;
        }
        r->states[lane] = state;
        if (++lane == lanes) lane = 0;
        *out = (uint8_t)(symbol + low);
        out += stride;
    }
    *first_lane = lane;
    return OK;
}

static status_t read_coded(reader_t *r, const classes_t *classes, const place_t *place, uint32_t low) {
    uint32_t lane = 0, index = 0;
    if (!classes->rows) return run(r, r->tables, place->out, place->stride, place->size, &lane, low);
    for (uint32_t row = 0; index < place->size; row++) {
        uint32_t class = unpacked(classes->rows, classes->row_bits, row);
        for (uint32_t column = 0; column < classes->column_count; column++, index += classes->inner) {
            const haversack_coded_table *table =
                &r->tables[class + unpacked(classes->columns, classes->column_bits, column)];
            TRY(run(r, table, place->out + (size_t)index * place->stride, place->stride, classes->inner, &lane, low));
        }
    }
    return OK;
}

/* Kernels place by place; the symbol before picks the table. */
static status_t read_beside(reader_t *r, const uint8_t *borders, const place_t *place, uint32_t low) {
    const haversack_coded_tensor *shaped = place->shaped;
    uint32_t cells = place->size ? shaped->shape[0] * shaped->shape[1] : 0, inner = cells ? place->size / cells : 0;
    for (uint32_t at = 0; at < inner; at++) {
        uint32_t lane = 0;
        uint8_t *out = place->out + at * place->stride;
        for (uint32_t cell = 0; cell < cells; cell++, out += inner * place->stride) {
            uint32_t class = 2;
            if (at) {
                uint32_t before = *(out - place->stride) - low;
                class = (before >= borders[0]) + (before >= borders[1]) + (before >= borders[2]) + (before >= borders[3]);
            }
            TRY(run(r, &r->tables[class], out, 1, 1, &lane, low));
        }
    }
    return OK;
}

static status_t take_classes(reader_t *r, uint32_t mode, const haversack_coded_tensor *shaped, classes_t *classes) {
    memset(classes, 0, sizeof *classes);
    classes->row_bits = mode >> 2 & 3;
    classes->column_bits = mode >> 4 & 3;
    if (!classes->row_bits && !classes->column_bits) return OK;
    if (!shaped || shaped->dimensions < 2 || classes->row_bits > 2 || classes->column_bits > 2) return DAMAGED;
    classes->column_count = shaped->shape[1];
    classes->inner = 1;
    for (uint32_t dimension = 2; dimension < shaped->dimensions; dimension++)
        classes->inner *= shaped->shape[dimension];
    TRY(take_packed(r, classes->row_bits, shaped->shape[0], &classes->rows));
    return take_packed(r, classes->column_bits, shaped->shape[1], &classes->columns);
}

/* ---- planes ---- */

typedef struct {
    uint32_t mode, low, count;
    const uint8_t *packed, *borders;
    classes_t classes;
} plane_t;

/* The head of a plane that is not split. */
static status_t take_plane(reader_t *r, plane_t *plane, uint32_t mode, uint32_t size,
                           const haversack_coded_tensor *shaped) {
    plane->mode = mode;
    TRY(take_byte(r, &plane->low));
    TRY(take_byte(r, &plane->count));
    plane->count++;
    if (plane->low + plane->count > 256) return DAMAGED;
    if (mode == BESIDE) {
        if (!shaped || shaped->dimensions < 3) return DAMAGED;
        TRY(take(r, BORDERS, &plane->borders));
        return take_tables(r, plane->count, BORDERS + 1);
    }
    if (mode & 0xC2 || (mode != PACKED && !(mode & CODED))) return DAMAGED;
    if (mode == PACKED) return take_packed(r, width_of(plane->count), size, &plane->packed);
    TRY(take_classes(r, mode, shaped, &plane->classes));
    return take_tables(r, plane->count, (1u << plane->classes.row_bits) + (1u << plane->classes.column_bits) - 1);
}

static status_t take_symbol(const plane_t *plane, uint32_t index, uint8_t *value) {
    uint32_t symbol = unpacked(plane->packed, width_of(plane->count), index);
    if (symbol >= plane->count) return DAMAGED;
    *value = (uint8_t)(symbol + plane->low);
    return OK;
}

static status_t read_whole(reader_t *r, const place_t *place, uint32_t mode) {
    plane_t plane;
    TRY(take_plane(r, &plane, mode, place->size, place->shaped));
    if (mode == BESIDE) return read_beside(r, plane.borders, place, plane.low);
    if (mode & CODED) return read_coded(r, &plane.classes, place, plane.low);
    for (uint32_t index = 0; index < place->size; index++)
        TRY(take_symbol(&plane, index, place->out + index * place->stride));
    return OK;
}

/* Puts `value` where the next 1 is, and `commonest` where the 0s before it are. */
static status_t put_other(const place_t *place, uint32_t *at, uint8_t commonest, uint8_t value) {
    uint8_t *out = place->out + (size_t)*at * place->stride;
    for (; *at < place->size && !*out; (*at)++, out += place->stride) *out = commonest;
    if (*at == place->size || *out != 1) return DAMAGED;
    *out = value;
    (*at)++;
    return OK;
}

static status_t read_split(reader_t *r, const place_t *place) {
    uint32_t commonest, mode, others, at = 0, lane = 0;
    uint8_t some[64];
    plane_t plane;
    TRY(take_byte(r, &commonest));
    TRY(take_byte(r, &mode));
    TRY(read_whole(r, place, mode));
    TRY(take_varint(r, &others));
    TRY(take_byte(r, &mode));
    TRY(take_plane(r, &plane, mode, others, NULL));
    for (uint32_t done = 0; done < others; done += sizeof some) {
        uint32_t count = others - done < sizeof some ? others - done : (uint32_t)sizeof some;
        if (mode & CODED) TRY(run(r, r->tables, some, 1, count, &lane, plane.low));
        for (uint32_t index = 0; index < count; index++) {
            if (mode == PACKED) TRY(take_symbol(&plane, done + index, some + index));
            TRY(put_other(place, &at, (uint8_t)commonest, some[index]));
        }
    }
    for (; at < place->size; at++) {
        if (place->out[at * place->stride]) return DAMAGED;
        place->out[at * place->stride] = (uint8_t)commonest;
    }
    return OK;
}

static status_t read_plane(reader_t *r, const place_t *place) {
    uint32_t mode;
    TRY(take_byte(r, &mode));
    return mode == SPLIT ? read_split(r, place) : read_whole(r, place, mode);
}

/* ---- arrays ---- */

static const uint8_t widths[] = {4, 2, 8, 1, 1, 2, 2, 4, 8, 2};

/* The bits of the float that has the value of a half. */
static uint32_t widened(uint32_t half) {
    uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 0x1F, fraction = half & 0x3FF;
    if (exponent == 31) return sign | 0x7F800000u | fraction << 13;
    if (exponent) return sign | (exponent + 112) << 23 | fraction << 13;
    if (!fraction) return sign;
    for (exponent = 113; !(fraction & 0x400); exponent--) fraction <<= 1;
    return sign | exponent << 23 | (fraction & 0x3FF) << 13;
}

/* Makes the machine's own number of the little-endian bytes in a cell. */
static void to_native(uint8_t *cell, uint32_t kind) {
    uint64_t value = 0;
    uint16_t small;
    uint32_t middle;
    for (uint32_t place = widths[kind]; place-- > 0;) value = value << 8 | cell[place];
    small = (uint16_t)value;
    middle = kind == HALVED ? widened(small) : (uint32_t)value;
    if (kind == HALVED || widths[kind] == 4) memcpy(cell, &middle, sizeof middle);
    else if (widths[kind] == 2) memcpy(cell, &small, sizeof small);
    else if (widths[kind] == 8) memcpy(cell, &value, sizeof value);
}

static status_t take_kind(reader_t *r, uint32_t *kind, uint32_t *mask) {
    TRY(take_byte(r, kind));
    TRY(take_byte(r, mask));
    return *kind > HALVED || *mask >> widths[*kind] ? DAMAGED : OK;
}

static status_t read_array(reader_t *r, uint32_t kind, uint32_t mask, void *out, uint32_t size) {
    size_t cell = kind == HALVED ? 4 : widths[kind];
    const uint8_t *from;
    for (uint32_t plane = 0; plane < widths[kind]; plane++) {
        place_t place;
        place.out = (uint8_t *)out + plane;
        place.stride = cell;
        place.size = size;
        place.shaped = NULL;
        if (mask >> plane & 1) {
            TRY(read_plane(r, &place));
            continue;
        }
        TRY(take(r, size, &from));
        for (uint32_t index = 0; index < size; index++) place.out[index * cell] = from[index];
    }
    for (uint32_t index = 0; index < size; index++) to_native((uint8_t *)out + index * cell, kind);
    return OK;
}

static status_t read_floats(reader_t *r, void *out, uint32_t size) {
    uint32_t kind, mask;
    TRY(take_kind(r, &kind, &mask));
    if (kind != HAVERSACK_CODED_FLOAT32 && kind != HALVED) return DAMAGED;
    return read_array(r, kind, mask, out, size);
}

/* ---- tensors ---- */

static status_t take_shape(reader_t *r, haversack_coded_tensor *tensor, uint32_t *form) {
    uint64_t elements = 1;
    TRY(take_byte(r, form));
    tensor->dimensions = (uint8_t)(*form >> 2);
    *form &= 3;
    if (*form > HAVERSACK_CODED_CODEBOOK || tensor->dimensions > HAVERSACK_CODED_MOST_DIMENSIONS) return DAMAGED;
    for (uint32_t dimension = 0; dimension < tensor->dimensions; dimension++) {
        TRY(take_varint(r, &tensor->shape[dimension]));
        elements *= tensor->shape[dimension];
        if (elements > UINT32_MAX) return DAMAGED;
    }
    tensor->elements = (uint32_t)elements;
    return OK;
}

static status_t take_raw(reader_t *r, haversack_coded_tensor *tensor) {
    uint32_t kind, mask;
    TRY(take_kind(r, &kind, &mask));
    r->kind = (uint8_t)kind;
    r->mask = (uint8_t)mask;
    tensor->type = kind == HALVED ? HAVERSACK_CODED_FLOAT32 : (haversack_coded_type)kind;
    return OK;
}

static int steps_fit(const haversack_coded_tensor *tensor) {
    uint32_t extent = tensor->axis < 0 ? 1 : tensor->shape[tensor->axis];
    if (tensor->axis < 0) return tensor->steps == 1;
    if (tensor->axis) return tensor->steps == extent;
    return tensor->steps && tensor->steps % (extent ? extent : 1) == 0 && tensor->elements % tensor->steps == 0;
}

static status_t take_integers(reader_t *r, haversack_coded_tensor *tensor) {
    uint32_t flags, axis;
    TRY(take_byte(r, &flags));
    TRY(take_byte(r, &axis));
    if (flags & 0x80 || axis > tensor->dimensions) return DAMAGED;
    tensor->bits = (uint8_t)((flags & 0xF) + 1);
    tensor->is_signed = !(flags & UNSIGNED);
    tensor->is_narrow = !!(flags & NARROW);
    tensor->has_zero_points = !!(flags & SHIFTED);
    tensor->axis = (int8_t)((int)axis - 1);
    tensor->steps = 1;
    if (axis) TRY(take_varint(r, &tensor->steps));
    if (tensor->bits < 2 || !steps_fit(tensor)) return DAMAGED;
    tensor->type = tensor->bits <= 8 ? HAVERSACK_CODED_INT8 : HAVERSACK_CODED_INT16;
    if (!tensor->is_signed) tensor->type = (haversack_coded_type)(tensor->type + 1);
    r->stage = SCALE;
    return OK;
}

static status_t take_codebook(reader_t *r, haversack_coded_tensor *tensor) {
    TRY(take_byte(r, &r->centroid_count));
    r->centroid_count++;
    tensor->type = HAVERSACK_CODED_FLOAT32;
    return read_floats(r, r->centroids, r->centroid_count);
}

static status_t take_tensor(reader_t *r) {
    haversack_coded_tensor *tensor = &r->tensor;
    uint32_t form;
    memset(tensor, 0, sizeof *tensor);
    TRY(take_name(r));
    memcpy(tensor->name, r->name, sizeof tensor->name);
    TRY(take_shape(r, tensor, &form));
    tensor->form = (haversack_coded_form)form;
    tensor->axis = -1;
    r->stage = VALUES;
    if (form == HAVERSACK_CODED_RAW) TRY(take_raw(r, tensor));
    else if (form == HAVERSACK_CODED_INTEGERS) TRY(take_integers(r, tensor));
    else TRY(take_codebook(r, tensor));
    if (tensor->elements > UINT32_MAX / widths[tensor->type]) return DAMAGED;
    tensor->bytes = tensor->elements * widths[tensor->type];
    return OK;
}

/* The integers, counted from the smallest of their type on, high bytes before low ones. */
static status_t read_integers(reader_t *r, uint8_t *out) {
    const haversack_coded_tensor *tensor = &r->tensor;
    uint32_t width = widths[tensor->type], middle = tensor->is_signed ? 1u << (8 * width - 1) : 0;
    uint32_t reach = 1u << tensor->bits, lowest = tensor->is_signed ? middle - reach / 2 : 0;
    for (uint32_t plane = 0; tensor->elements && plane < width; plane++) {
        place_t place = {NULL, 0, 0, NULL};
        place.out = out + plane;
        place.stride = width;
        place.size = tensor->elements;
        place.shaped = tensor;
        TRY(read_plane(r, &place));
    }
    for (uint32_t index = 0; index < tensor->elements; index++, out += width) {
        uint32_t value = width == 1 ? out[0] : (uint32_t)out[0] << 8 | out[1];
        uint16_t small = (uint16_t)(value - middle);
        if (value - lowest >= reach) return DAMAGED;
        if (width == 1) out[0] = (uint8_t)small;
        else memcpy(out, &small, sizeof small);
    }
    return OK;
}

static status_t read_codebook(reader_t *r, uint8_t *out) {
    place_t place = {NULL, 4, 0, NULL};
    place.out = out;
    place.size = r->tensor.elements;
    place.shaped = &r->tensor;
    if (place.size) TRY(read_plane(r, &place));
    for (uint32_t index = 0; index < place.size; index++, out += 4) {
        if (*out >= r->centroid_count) return DAMAGED;
        memcpy(out, &r->centroids[*out], 4);
    }
    return OK;
}

/* What is damaged once stays so: the place where the next thing begins is lost. */
static status_t settled(reader_t *r, status_t status, int stage) {
    r->stage = status == OK ? stage : FAILED;
    return status;
}

/* ---- what the caller calls ---- */

status_t haversack_coded_open(reader_t *r, const uint8_t *content, size_t size) {
    if (size < 3 || memcmp(content, "HSC", 3)) return HAVERSACK_CODED_FOREIGN;
    if (size > 3 && content[3] > 1) return HAVERSACK_CODED_NEWER;
    if (size < START + 1 + CHECKSUM || checksum(content, size - CHECKSUM) != little32(content + size - CHECKSUM))
        return HAVERSACK_CODED_CHECKSUM;
    memset(r, 0, sizeof *r);
    r->content = content;
    r->head = START;
    r->tail = size - CHECKSUM;
    r->lanes = content[4];
    r->stage = FAILED;
    if (r->lanes > HAVERSACK_CODED_MOST_LANES) return DAMAGED;
    TRY(start_lanes(r));
    TRY(take_varint(r, &r->left));
    r->stage = NAMED;
    return OK;
}

status_t haversack_coded_next(reader_t *r, haversack_coded_tensor *tensor) {
    status_t status;
    if (r->stage != NAMED) return HAVERSACK_CODED_ORDER;
    if (!r->left) return HAVERSACK_CODED_END;
    r->left--;
    status = take_tensor(r);
    *tensor = r->tensor;
    return settled(r, status, r->stage);
}

status_t haversack_coded_scale(reader_t *r, float *out, size_t count) {
    if (r->stage != SCALE) return HAVERSACK_CODED_ORDER;
    if (count != r->tensor.steps) return HAVERSACK_CODED_BUFFER;
    return settled(r, read_floats(r, out, r->tensor.steps), r->tensor.has_zero_points ? ZERO_POINTS : VALUES);
}

status_t haversack_coded_zero_points(reader_t *r, int32_t *out, size_t count) {
    uint32_t kind, mask;
    status_t status;
    if (r->stage != ZERO_POINTS) return HAVERSACK_CODED_ORDER;
    if (count != r->tensor.steps) return HAVERSACK_CODED_BUFFER;
    status = take_kind(r, &kind, &mask);
    if (status == OK && kind != HAVERSACK_CODED_INT32) status = DAMAGED;
    if (status == OK) status = read_array(r, kind, mask, out, r->tensor.steps);
    return settled(r, status, VALUES);
}

status_t haversack_coded_values(reader_t *r, void *out, size_t bytes) {
    status_t status;
    if (r->stage != VALUES) return HAVERSACK_CODED_ORDER;
    if (bytes < r->tensor.bytes) return HAVERSACK_CODED_BUFFER;
    if (r->tensor.form == HAVERSACK_CODED_RAW) status = read_array(r, r->kind, r->mask, out, r->tensor.elements);
    else if (r->tensor.form == HAVERSACK_CODED_INTEGERS) status = read_integers(r, out);
    else status = read_codebook(r, out);
    return settled(r, status, NAMED);
}

status_t haversack_coded_close(const reader_t *r) {
    if (r->stage == FAILED) return DAMAGED;
    if (r->stage != NAMED || r->left) return HAVERSACK_CODED_ORDER;
    if (r->head != r->tail) return DAMAGED;
    for (uint32_t lane = 0; lane < r->lanes; lane++)
        if (r->states[lane] != LOWEST) return DAMAGED;
    return OK;
}
