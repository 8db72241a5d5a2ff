/* Pixels of a convolution: four at a time, so that a weight that is read serves all of them. */
typedef struct {
    Products products;
    int16_t in_height, in_width, in_channels;
    int16_t out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width;
    int16_t stride_height, stride_width;
    int16_t dilation_height, dilation_width;
    int16_t top, left; /* how many rows and columns of zeros lie before the map */
    int16_t groups;
    int16_t in_zero;
    int16_t pointwise; /* each pixel is a patch by itself */
    int32_t words; /* of a patch: its depth / 4, rounded up */
} Convolution;

/* Where a window begins, and how many pixels are left in its row of results. */
typedef struct {
    int32_t row, column, left;
} Pixel;

enum { PIXELS = 4 };

typedef struct {
    int32_t first, second, third, fourth;
} Sums;

HELPER void next_pixel(const Convolution *by, Pixel *place)
{
    place->column += by->stride_width;
    place->left--;
    if (place->left == 0) {
        place->left = by->out_width;
        place->column = -by->left;
        place->row += by->stride_height;
    }
}

/* A channel's results of so many pixels. */
HELPER void put_results(Sums sums, Ending ending, int32_t count, int32_t step, int8_t *y)
{
    switch (count) {
    case PIXELS:
        y[3 * step] = result_of(ending, sums.fourth);
        /* fall through */
    case 3:
        y[2 * step] = result_of(ending, sums.third);
        /* fall through */
    case 2:
        y[step] = result_of(ending, sums.second);
        /* fall through */
    default:
        y[0] = result_of(ending, sums.first);
        break;
    }
}
