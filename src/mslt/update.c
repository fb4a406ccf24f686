/* What an update does to rows of an optimizer's buffers, on a CPU: `update.py` says it by torch's
 * operations, each of which would read and write the rows once more. Memory is all that it waits for.
 */
#include "numbers.h"

/* Adam's constants: by what gradients are clipped, and how much of the old and of the new is in each
 * moment. */
typedef struct {
    float scale, old_mean, new_mean, old_square, new_square, eps;
} constants;

/* What a tensor's step goes by: its rate, its decay, and what its moments lack, being young. */
typedef struct {
    float rate, decay, mean_bias, square_bias;
} numbers;

/* The directions of a row; moves its moments. */
static inline void row_direction(const float *restrict grads, float *restrict mean,
                                 float *restrict square, const float *restrict weights,
                                 float *restrict to, long width, numbers of, constants c)
{
    float inverse = 1 / of.square_bias;
    for (long i = 0; i < width; i++) {
        float grad = grads[i] * c.scale;
        float m = c.old_mean * mean[i] + c.new_mean * grad;
        float v = c.old_square * square[i] + c.new_square * grad * grad;
        mean[i] = m;
        square[i] = v;
        to[i] = m / ((sqrtf(v * inverse) + c.eps) * of.mean_bias) + of.decay * weights[i];
    }
}

static inline void row_move(const float *restrict directions, float *restrict weights,
                            number *copies, long width, float rate)
{
    for (long i = 0; i < width; i++)
        weights[i] -= rate * directions[i];
    for (long i = 0; copies && i < width; i += LANES) {
        long n = at_most(width - i, LANES);
        store(copies + i, load32(weights + i, n), n);
    }
}

static inline float row_norm(const float *row, long width)
{
    floats total = {0};
    for (long i = 0; i < width; i += LANES) {
        floats x = load32(row + i, at_most(width - i, LANES));
        total += x * x;
    }
    return sqrtf(sum(total));
}

enum { MOST = 128 }; /* of a row's width */

/* Take AdamW's step in all rows, [rows, width], each of its tensor. Copies may be none. */
void adamw(const int32_t *tensor, const float *grads, float *mean, float *square, float *weights,
           number *copies, long rows, long width, const numbers *of, const constants *c)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        long at = row * width;
        float to[MOST];
        row_direction(grads + at, mean + at, square + at, weights + at, to, width, of[tensor[row]], *c);
        row_move(to, weights + at, copies ? copies + at : NULL, width, of[tensor[row]].rate);
    }
}

/* Put the directions in the gradients' place; norms of the rows of weights and of them, [rows, 2]. */
void direct(const int32_t *tensor, float *grads, float *mean, float *square, const float *weights,
            float *norms, long rows, long width, const numbers *of, const constants *c)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        long at = row * width;
        float to[MOST];
        row_direction(grads + at, mean + at, square + at, weights + at, to, width, of[tensor[row]], *c);
        memcpy(grads + at, to, width * sizeof *to);
        norms[2 * row] = row_norm(weights + at, width);
        norms[2 * row + 1] = row_norm(to, width);
    }
}

/* Go there, each row at its tensor's rate. */
void move(const int32_t *tensor, const float *directions, float *weights, number *copies, long rows,
          long width, const float *rates)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        long at = row * width;
        row_move(directions + at, weights + at, copies ? copies + at : NULL, width, rates[tensor[row]]);
    }
}
