/* Linear layers of few rows, for which reading the weight is most of the work. */

#include "common.h"

/* Values of a register: the sums of six rows in two registers each stay in theirs. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
#define WIDTH (2 * LANES)
#define TOGETHER 6

/* Outputs per block of a packed weight. */
long long packed_linear_width(void) { return WIDTH; }

static inline __attribute__((always_inline)) void rows_of_block(const float *x, const float *block, const float *bias,
                                                                long long inputs, long long outputs, long long at,
                                                                float *out, int rows)
{
    lanes sums[TOGETHER][2], left, right;
    for (int row = 0; row < rows; row++)
        sums[row][0] = sums[row][1] = (lanes){0.0f};
    for (long long input = 0; input < inputs; input++, block += WIDTH) {
        __builtin_memcpy(&left, block, sizeof left);
        __builtin_memcpy(&right, block + LANES, sizeof right);
        for (int row = 0; row < rows; row++) {
            float factor = x[row * inputs + input];
            sums[row][0] += left * factor;
            sums[row][1] += right * factor;
        }
    }
    long long width = outputs - at < WIDTH ? outputs - at : WIDTH;
    for (int row = 0; row < rows; row++)
        for (long long place = 0; place < width; place++)
            out[row * outputs + at + place] = sums[row][place / LANES][place % LANES] + (bias ? bias[at + place] : 0.0f);
}

/* out (rows, outputs) = x (rows, inputs) W^T + bias (outputs), which may be null. W comes in blocks of WIDTH outputs,
   (blocks, inputs, WIDTH), the last one padded; each value is read once for six rows. */
void packed_linear(const float *x, const float *weight, const float *bias, long long rows, long long inputs,
                   long long outputs, float *out)
{
    long long blocks = (outputs + WIDTH - 1) / WIDTH, block;
#pragma omp parallel for schedule(static) if (inputs * outputs > SMALL)
    for (block = 0; block < blocks; block++) {
        const float *w = weight + block * inputs * WIDTH;
        for (long long row = 0; row < rows; row += TOGETHER) {
            const float *from = x + row * inputs;
            float *to = out + row * outputs;
            long long at = block * WIDTH;
            switch (rows - row) { /* a constant number of rows keeps the sums in registers */
            case 1: rows_of_block(from, w, bias, inputs, outputs, at, to, 1); break;
            case 2: rows_of_block(from, w, bias, inputs, outputs, at, to, 2); break;
            case 3: rows_of_block(from, w, bias, inputs, outputs, at, to, 3); break;
            case 4: rows_of_block(from, w, bias, inputs, outputs, at, to, 4); break;
            case 5: rows_of_block(from, w, bias, inputs, outputs, at, to, 5); break;
            default: rows_of_block(from, w, bias, inputs, outputs, at, to, TOGETHER); break;
            }
        }
    }
}
