/* Numbers in fp32 and bf16, LANES at a time, and the functions of them that layers are made of. GCC
 * makes of the vectors what the machine has. -DFP32 lets a `number` be one in fp32.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { LANES = 16 };

typedef float    floats __attribute__((vector_size(4 * LANES)));
typedef int32_t  ints   __attribute__((vector_size(4 * LANES)));
typedef uint32_t words  __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t  bytes  __attribute__((vector_size(LANES)));

static const words PLACES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline long at_most(long n, long most) { return n < most ? n : most; }

/* n numbers of a size, LANES at most. */
static inline void copy(void *to, const void *from, long n, long size)
{
    if (n >= LANES)
        memcpy(to, from, LANES * size);
    else
        memcpy(to, from, n * size);
}

/* n numbers in fp32; zeros behind them. */
static inline floats load32(const float *from, long n)
{
    floats x = {0};
    copy(&x, from, n, sizeof *from);
    return x;
}

static inline void store32(float *to, floats x, long n) { copy(to, &x, n, sizeof *to); }

#ifdef FP32
typedef float number;
#define load  load32
#define store store32
#else
typedef uint16_t number;

static inline floats load(const number *from, long n)
{
    halves h = {0};
    copy(&h, from, n, sizeof *from);
    return (floats)(__builtin_convertvector(h, words) << 16);
}

/* To the nearest, of two as near to the even one; what is no number to one that is none. */
static inline void store(number *to, floats x, long n)
{
#ifdef __AVX512BF16__
    __m256bh h = _mm512_cvtneps_pbh((__m512)x);
#else
    ints none = x != x; /* whose lower bits must not carry into what remains */
    words bits = (words)((~none & (ints)x) | (none & 0x7fc00000));
    halves h = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, halves);
#endif
    copy(to, &h, n, sizeof *to);
}
#endif

static inline floats where(ints is, floats x, floats y)
{
    return (floats)((is & (ints)x) | (~is & (ints)y));
}

static inline floats within(floats x, float most)
{
    floats top = most + (floats){0};
    return where(x > top, top, where(x < -top, -top, x));
}

/* x, and `rest` behind its first n. */
static inline floats first(floats x, long n, float rest)
{
    return n >= LANES ? x : where((ints)PLACES < (int32_t)n, x, rest + (floats){0});
}

/* Numbers from these places of two vectors, one behind the other. */
static inline words shuffled(words a, words b, words from)
{
#ifdef __clang__
    words x;
    for (int i = 0; i < LANES; i++)
        x[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return x;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

/* Each number in the place of the one that is so far away, for what is made of all of them. */
static inline floats turned(floats x, uint32_t by)
{
    return (floats)shuffled((words)x, (words)x, PLACES ^ by);
}

static inline float sum(floats x)
{
    for (uint32_t by = LANES / 2; by; by /= 2)
        x += turned(x, by);
    return x[0];
}

static inline float largest(floats x)
{
    for (uint32_t by = LANES / 2; by; by /= 2) {
        floats other = turned(x, by);
        x = where(other > x, other, x);
    }
    return x[0];
}

/* e^x for x up to 88, off by a part of 1e-7 (1 + |x|) at most; 0 below -87. */
static inline floats exponential(floats x)
{
    floats times = x * 1.44269504f, whole = times + 12582912.0f;
    ints power = (ints)whole - 0x4b400000;
    floats f = times - (whole - 12582912.0f);
    floats p = f * 1.5403530e-4f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    p = where(x < -87.0f, (floats){0}, (floats)((ints)p + (power << 23)));
    return where(x == x, p, x);
}

/* A polynomial in t between -1 and 1. */
static inline floats polynomial(const float *of, int degree, floats t)
{
    floats y = of[degree] + (floats){0};
    while (degree--)
        y = y * t + of[degree];
    return y;
}

/* GELU and its slope: x (1/2 + x P(x^2)) and 1/2 + x Q(x^2) up to 5.25 on either side, and what they
 * come to beyond. P and Q are fitted to be off by as little as can be: 1e-6 and 2e-6 at most. */
static inline floats gelu(floats x, floats *slope)
{
    enum { DEGREE = 13 };
    static const float of_value[] = {
        .13465935f, -.0671265945f, .0496451929f, -.0397712179f, .0320452638f, -.0249654241f, .0184254199f,
        -.0130905071f, .00883974973f, -.0048270952f, .00211206684f, -.00161964959f, .00136218348f,
        -.000450666208f};
    static const float of_slope[] = {
        .13506557f, -.0699213892f, .0592397228f, -.0619431101f, .0708513781f, -.0772528499f, .0744440481f,
        -.0727167353f, .072732076f, -.0456223153f, .0103595499f, -.013798411f, .0238646884f,
        -.0100640124f};
    floats in = within(x, 5.25f), t = in * in * (2 / (5.25f * 5.25f)) - 1.0f;
    *slope = 0.5f + in * polynomial(of_slope, DEGREE, t);
    return where(x < -5.25f, x * 0.0f, x * (0.5f + in * polynomial(of_value, DEGREE, t)));
}

/* By way of tanh, as ALBERT has it (`gelu_new`). */
static inline floats gelu_tanh(floats x, floats *slope)
{
    floats in = within(x, 20.0f), cubic = 0.044715f * in * in;
    floats twice = within(1.5957691f * in * (1.0f + cubic), 87.0f);
    floats below = 1.0f / (1.0f + exponential(-twice));
    *slope = below + in * below * (1.0f - below) * 1.5957691f * (1.0f + 3.0f * cubic);
    return x * below;
}

/* Each bit as good as random of all others (C. Wellons' lowbias32, public domain). */
static inline words mixed(words x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* Dropout: a number is kept where 16 random bits stay below `keep`, and then scaled. `keep` of
 * 65536 keeps all. */
typedef struct { uint32_t seed[2]; int32_t keep; float scale; } dropping;

/* The place of a row's first number: two runs of LANES share the words that are drawn. */
static inline uint64_t begin(uint64_t row, long width)
{
    return row * ((width + 2 * LANES - 1) / (2 * LANES)) * (2 * LANES);
}

/* LANES numbers, the i-th of a row and on, whose first one's place is `begin`. Of each row the runs
 * come one after the other: every second one draws for the next one too. */
static inline floats drop(floats x, uint64_t begin, long i, const dropping *d, words *drawn)
{
    if (d->keep >= 65536)
        return x;
    if (!(i & LANES)) {
        words at = PLACES + (uint32_t)((begin + i) / 2);
        *drawn = mixed(mixed(at + d->seed[0]) + d->seed[1]);
    }
    words bits = i & LANES ? *drawn >> 16 : *drawn & 0xffff;
    return where((ints)bits < d->keep, x * d->scale, (floats){0});
}

/* The nearest whole numbers, of less than 2^22 on either side. */
static inline ints nearest(floats x) { return (ints)(x + 12582912.0f) - 0x4b400000; }

/* y = LayerNorm(s) of a row whose mean is known; 1 / its deviation is returned. */
static inline float normalised(const number *s, number *y, float mean, const float *weight,
                               const float *shift, long width, float eps)
{
    floats square = {0};
    for (long i = 0; i < width; i += LANES) {
        long n = at_most(width - i, LANES);
        floats off = first(load(s + i, n) - mean, n, 0);
        square += off * off;
    }
    float root = 1 / sqrtf(sum(square) / width + eps);
    for (long i = 0; i < width; i += LANES) {
        long n = at_most(width - i, LANES);
        floats unit = (load(s + i, n) - mean) * root;
        store(y + i, unit * load32(weight + i, n) + load32(shift + i, n), n);
    }
    return root;
}

/* Numbers, of whose runs `most` are the largest, become e to them less the largest of all; 1 / their
 * sum is returned. There is room for a whole last run, -infinity behind the width. */
static inline float powers(float *x, floats most, long width)
{
    floats total = {0};
    float top = largest(most);
    for (long i = 0; i < width; i += LANES) {
        floats power = exponential(load32(x + i, LANES) - top);
        store32(x + i, power, LANES);
        total += power;
    }
    return 1 / sum(total);
}
