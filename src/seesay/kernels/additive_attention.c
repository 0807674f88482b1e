/* Additive attention of R queries over the N regions of their images; see additive_attention.py for the equations.
   keys = exp(2 k) (B, N, A) and factors = exp(2 q) (R, A), so that tanh(k + q) = 1 - 2 r with r = 1 / (1 + key factor). */

#include "common.h"

#define ROWS 16  /* rows of a block, the unit of work of a thread */
#define WIDE 128 /* units for which the keys of a few images stay in a core's cache while their rows are computed */
#define PART 64  /* values of a row whose sums stay in registers */

/* Energies (R, N) of rows begin..end - 1: -2 sum_a score_a r_a, which differs from score . tanh by a constant per row. */
static void energies_of_rows(const float *keys, const float *factors, const float *score, const long long *image,
                             long long begin, long long end, long long regions, long long units, float *energies)
{
    for (long long at = 0; at < units; at += WIDE) {
        long long width = units - at < WIDE ? units - at : WIDE;
        const float *v = score + at;
        for (long long row = begin; row < end; row++) {
            const float *f = factors + row * units + at, *k = keys + image[row] * regions * units + at;
            float *out = energies + row * regions;
            for (long long region = 0; region < regions; region++, k += units) {
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (long long unit = 0; unit < width; unit++)
                    sum += v[unit] / (1.0f + k[unit] * f[unit]);
                out[region] = (at ? out[region] : 0.0f) - 2.0f * sum;
            }
        }
    }
}

/* Replaces energies (N) by their softmax over the regions that `mask` (N) allows (0 = all), and writes the weighted mean
   of memory (N, D) to context (D). */
static void softmax_and_mean(float *weights, const unsigned char *mask, const float *memory, long long regions,
                             long long size, float *context)
{
    float top = -3.4e38f, sum = 0.0f;
    for (long long region = 0; region < regions; region++)
        if (!mask || mask[region])
            top = weights[region] > top ? weights[region] : top;
#pragma omp simd reduction(+ : sum)
    for (long long region = 0; region < regions; region++) {
        float share = exponential(weights[region] - top);
        weights[region] = mask && !mask[region] ? 0.0f : share;
        sum += weights[region];
    }
    for (long long at = 0; at < size; at++)
        context[at] = 0.0f;
    for (long long region = 0; region < regions; region++, memory += size) {
        float share = weights[region] /= sum;
        for (long long at = 0; at < size; at++)
            context[at] += share * memory[at];
    }
}

/* Writes weights (R, N) and context (R, D) for keys (B, N, A), factors (R, A), score (A), memory (B, N, D), image (R) and
   mask (B, N), which may be null. */
void additive_attention(const float *keys, const float *factors, const float *score, const float *memory,
                        const long long *image, const unsigned char *mask, long long rows, long long regions,
                        long long units, long long size, float *weights, float *context)
{
    long long few = rows < 4 ? rows : 4, blocks = rows > 4 * ROWS ? (rows + ROWS - 1) / ROWS : few, block;
#pragma omp parallel for schedule(static) if (rows * regions * units > SMALL)
    for (block = 0; block < blocks; block++) {
        long long begin = block * rows / blocks, end = (block + 1) * rows / blocks;
        energies_of_rows(keys, factors, score, image, begin, end, regions, units, weights);
        for (long long row = begin; row < end; row++)
            softmax_and_mean(weights + row * regions, mask ? mask + image[row] * regions : 0,
                             memory + image[row] * regions * size, regions, size, context + row * size);
    }
}

/* Writes the gradient of the energies (N) of one row, from those of its context (D) and of its weights (N). */
static void energy_gradient(const float *grad_context, const float *grad_weights, const float *weights,
                            const float *memory, long long regions, long long size, float *grad)
{
    float mean = 0.0f;
    for (long long region = 0; region < regions; region++, memory += size) {
        float sum = grad_weights[region];
#pragma omp simd reduction(+ : sum)
        for (long long at = 0; at < size; at++)
            sum += memory[at] * grad_context[at];
        grad[region] = sum;
        mean += sum * weights[region];
    }
    for (long long region = 0; region < regions; region++)
        grad[region] = weights[region] * (grad[region] - mean);
}

/* The part of the units from `at` on, for all rows: adds to the gradients of keys and score, writes that of factors. The
   gradient of an energy g gives -2 g r to the score, and 2 g score r^2 times the other side to keys and factors. */
static void part_of_units(const float *keys, const float *factors, const float *score, const float *grad,
                          const long long *image, long long rows, long long regions, long long units, long long at,
                          float *grad_keys, float *grad_factors, float *grad_score)
{
    long long width = units - at < PART ? units - at : PART;
    float v[PART], factor[PART], sums[PART], total[PART] = {0.0f};
    for (long long unit = 0; unit < PART; unit++)
        v[unit] = unit < width ? 2.0f * score[at + unit] : 0.0f;
    for (long long row = 0; row < rows; row++) {
        long long first = image[row] * regions * units + at;
        const float *k = keys + first, *g = grad + row * regions;
        float *d = grad_keys + first;
        for (long long unit = 0; unit < PART; unit++) {
            factor[unit] = unit < width ? factors[row * units + at + unit] : 0.0f;
            sums[unit] = 0.0f;
        }
#define REGION(count)                                                  \
    for (long long unit = 0; unit < (count); unit++) {                 \
        float r = 1.0f / (1.0f + k[unit] * factor[unit]), t = here * r; \
        total[unit] += t;                                              \
        t *= v[unit] * r;                                              \
        sums[unit] += t * k[unit];                                     \
        d[unit] += t * factor[unit];                                   \
    }
        for (long long region = 0; region < regions; region++, k += units, d += units) {
            float here = g[region];
            if (width == PART) { /* a constant length keeps the sums in registers */
#pragma omp simd
                REGION(PART)
            } else {
                REGION(width)
            }
        }
        for (long long unit = 0; unit < width; unit++)
            grad_factors[row * units + at + unit] = sums[unit];
    }
    for (long long unit = 0; unit < width; unit++)
        grad_score[at + unit] -= 2.0f * total[unit];
}

/* Adds weights (R, N) times grad_context (R, D), in columns from `at` on, to grad_memory (B, N, D). */
static void part_of_memory(const float *weights, const float *grad_context, const long long *image, long long rows,
                           long long regions, long long size, long long at, float *grad_memory)
{
    long long width = size - at < PART ? size - at : PART;
    for (long long row = 0; row < rows; row++) {
        const float *g = grad_context + row * size + at, *w = weights + row * regions;
        float *d = grad_memory + image[row] * regions * size + at;
        for (long long region = 0; region < regions; region++, d += size)
            for (long long column = 0; column < width; column++)
                d[column] += w[region] * g[column];
    }
}

/* From the gradients of context (R, D) and weights (R, N): writes that of factors (R, A); adds to those of keys (B, N, A),
   score (A) and memory (B, N, D). Scratch: grad_energies (R, N). Threads share the units and columns out, so that no two
   of them write to one place. */
void additive_attention_backward(const float *keys, const float *factors, const float *score, const float *memory,
                                 const long long *image, const float *weights, const float *grad_context,
                                 const float *grad_weights, long long rows, long long regions, long long units,
                                 long long size, float *grad_energies, float *grad_factors, float *grad_keys,
                                 float *grad_score, float *grad_memory)
{
    long long parts = (units + PART - 1) / PART, columns = (size + PART - 1) / PART, row, part;
#pragma omp parallel for schedule(static) if (rows * regions * size > SMALL)
    for (row = 0; row < rows; row++)
        energy_gradient(grad_context + row * size, grad_weights + row * regions, weights + row * regions,
                        memory + image[row] * regions * size, regions, size, grad_energies + row * regions);
#pragma omp parallel for schedule(static) if (rows * regions * units > SMALL)
    for (part = 0; part < parts + columns; part++)
        if (part < parts)
            part_of_units(keys, factors, score, grad_energies, image, rows, regions, units, part * PART, grad_keys,
                          grad_factors, grad_score);
        else
            part_of_memory(weights, grad_context, image, rows, regions, size, (part - parts) * PART, grad_memory);
}
