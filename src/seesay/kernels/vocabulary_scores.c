/* Reductions of scores over the vocabulary, a pass each; see vocabulary_scores.py. */

#include "common.h"

#define CHUNK 64 /* scores that are compared at once with the least of the best */

static const float NEG_INF = -__builtin_inff();

/* Writes log(sum(exp(x))) of rows (R, V) to totals (R). */
void vocabulary_logsumexp(const float *x, long long rows, long long size, float *totals)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL)
    for (row = 0; row < rows; row++) {
        const float *scores = x + row * size;
        float top = NEG_INF, sum = 0.0f;
#pragma omp simd reduction(max : top)
        for (long long token = 0; token < size; token++)
            top = scores[token] > top ? scores[token] : top;
#pragma omp simd reduction(+ : sum)
        for (long long token = 0; token < size; token++)
            sum += exponential(scores[token] - (top == NEG_INF ? 0.0f : top));
        totals[row] = top == NEG_INF && sum == sum ? top : top + __builtin_logf(sum); /* NaN if a score is */
    }
}

static void insert(float score, long long token, long long count, float *best, long long *tokens)
{
    long long place = count - 1;
    for (; place > 0 && score > best[place - 1]; place--) {
        best[place] = best[place - 1];
        tokens[place] = tokens[place - 1];
    }
    best[place] = score;
    tokens[place] = token;
}

/* Writes the `count` highest scores of rows (R, V), best first and of equal ones the first token first, and their tokens,
   (R, count) each. NaN counts as -inf. */
void vocabulary_topk(const float *x, long long rows, long long size, long long count, float *best, long long *tokens)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL)
    for (row = 0; row < rows; row++) {
        const float *scores = x + row * size;
        float *values = best + row * count;
        long long *which = tokens + row * count, token = 0;
        for (; token < count; token++)
            insert(scores[token] == scores[token] ? scores[token] : NEG_INF, token, token + 1, values, which);
        while (token < size) {
            long long end = token + CHUNK < size ? token + CHUNK : size;
            float least = values[count - 1];
            int any = 0;
#pragma omp simd reduction(| : any)
            for (long long each = token; each < end; each++)
                any |= scores[each] > least;
            for (; any && token < end; token++)
                if (scores[token] > values[count - 1])
                    insert(scores[token], token, count, values, which);
            token = end;
        }
    }
}
