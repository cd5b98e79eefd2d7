// What the usual statistics want of a site (rows, tokens, channels), in one read of it. CUDA C,
// because Triton has no counters in shared memory.
//
// A block reads `span` tokens of one row by 128 channels; its teams of warps take tokens in turn.
// It adds to running sums of powers about a fixed center, to extrema and to counts by leading bits,
// counts what reaches a threshold, and appends the keys of values that may be among the largest.
// Every sum has one owner, so the same data gives the same bits. The host's side is one_read.py.
//
// Macros beside those of words.cu: WARPS of a block; DEPTH vectors that are on their way while as
// many are used.

#define BLOCK 128                    // channels
#define ROW (BLOCK / PER_LANE)       // lanes that a token takes
#define TEAMS (WARPS * LANES / ROW)  // tokens at a time
#define FIRST 192                    // the bins of a table in shared memory: from 2^-28 to 2^16
#define TABLE 704
#define COPIES LANES  // of a counter: each lane has a memory bank of its own, no two ever wait
#define MEMORY (TEAMS * BLOCK * (4 * (int)sizeof(WIDE) + 12))
#define STAGED (MEMORY / 8)  // keys that a block can hold

struct Sums {
    WIDE power[4][PER_LANE];
    u32 low[WORDS], high[WORDS], above[WORDS];
    int missing[PER_LANE];
};

// EXACT leaves out what is not finite, and counts it; COUNTS counts by leading bits.
template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void take(
    Sums& a, const Vector& v, const WIDE* center, u32 below, u32 counters) {
#pragma unroll
    for (int j = 0; j < WORDS; ++j) {
        u32 gone = 0;  // the bits of values that are not finite
#pragma unroll
        for (int i = j * PER_WORD; i < (j + 1) * PER_WORD; ++i) {
            const u32 bits = bits_of(v.word, i);
            if (COUNTS) {
                const u32 at = counters + place_of(bits, -28, TABLE) * (COPIES * 4);
                asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(at), "r"(1));
            }
            const float value = __uint_as_float(bits);
            if (EXACT && !(fabsf(value) < INFINITE)) {
                a.missing[i] += 1;
                gone |= PER_WORD == 1 ? EVERY : 0xffffu << 16 * (i % PER_WORD);
                continue;
            }
            const WIDE d = less(bits, center[i]);
            const WIDE square = d * d;
            a.power[0][i] += d;
            a.power[1][i] += square;
            a.power[2][i] += square * d;
            a.power[3][i] += square * square;
        }
        const u32 word = EXACT ? (v.word[j] & ~gone) | (INFINITIES & gone) : v.word[j];
        a.low[j] = least(a.low[j], word);
        a.high[j] = most(a.high[j], EXACT ? word | (~SIZES & gone) : word);
        a.above[j] += reaching(word, below) - (gone & ONES);
    }
}

// Where a thread reads: its first vector, how many, how far they are apart; what orders its values.
struct Share {
    const Vector* at;
    int number;
    i64 stride, order;
    int step;  // in the order, from one vector to the next
};

__device__ __forceinline__ void load(Vector* to, const Vector* at, i64 stride) {
#pragma unroll
    for (int j = 0; j < DEPTH; ++j) to[j] = at[j * stride];
}

// Read a share, of which the first vectors are here already, if it has as many as DEPTH.
template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void walk(
    Sums& a, Vector* here, const Share& mine, const WIDE* center, u32 below, u32 counters) {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        for (int p = 0; p < 4; ++p) a.power[p][i] = 0;
        a.low[i / PER_WORD] = INFINITIES;
        a.high[i / PER_WORD] = INFINITIES | ~SIZES;
        a.above[i / PER_WORD] = a.missing[i] = 0;
    }
    const Vector* at = mine.at;
    int left = mine.number;
    for (; left >= DEPTH; left -= DEPTH) {
        Vector next[DEPTH];
        at += DEPTH * mine.stride;
        if (left >= 2 * DEPTH) load(next, at, mine.stride);
#pragma unroll
        for (int j = 0; j < DEPTH; ++j) take<EXACT, COUNTS>(a, here[j], center, below, counters);
#pragma unroll
        for (int j = 0; j < DEPTH; ++j) here[j] = next[j];
    }
    for (; left > 0; --left, at += mine.stride) {
        const Vector one = *at;
        take<EXACT, COUNTS>(a, one, center, below, counters);
    }
}

// A key: the bits of |x|, then the place in order (rank of the document, token, channel), the first
// place being the largest, then the sign. -1 for what is not finite.
__device__ __forceinline__ i64 key_of(u32 bits, i64 order) {
    const u32 size = bits & 0x7fffffffu;
    if (size >= 0x7f800000u) return -1;
    return ((i64)size << 32) | ((0x7fffffffLL - order) << 1) | (bits >> 31);
}

// Append the keys of at least `bound`, of which there are more than can be kept: the k largest, one
// in each walk.
__device__ void select(const Share& mine, i64 bound, int k, i64* keys, int* found) {
    __shared__ i64 bests[WARPS];
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    i64 last = 0x7fffffffffffffffLL;
    for (int kept = 0; kept < k; ++kept) {
        i64 best = -1;
        for (int t = 0; t < mine.number; ++t) {
            const Vector v = mine.at[t * mine.stride];
#pragma unroll
            for (int i = 0; i < PER_LANE; ++i) {
                const i64 key = key_of(bits_of(v.word, i), mine.order + (i64)t * mine.step + i);
                if (key < last && key > best) best = key;
            }
        }
        for (int step = LANES / 2; step; step >>= 1) {
            const i64 other = __shfl_xor_sync(EVERY, best, step);
            best = other > best ? other : best;
        }
        __syncthreads();
        if (lane == 0) bests[warp] = best;
        __syncthreads();
        for (int w = 0; w < WARPS; ++w) best = bests[w] > best ? bests[w] : best;
        if (best < bound) break;
        if (threadIdx.x == 0) keys[atomicAdd(found, 1)] = best;
        last = best;
    }
}

// Append the keys of values of at least the size `floor`, at most the k largest. Only threads that
// met such a value (`large`) have theirs read again: by all lanes of the warp, a vector each.
__device__ void append(
    const Share& mine, bool large, float floor, int k, i64* keys, int* found, i64* staged) {
    __shared__ int number, base;
    const int lane = threadIdx.x % LANES, room = min(k, STAGED);
    const i64 bound = (i64)__float_as_uint(floor) << 32;
    if (threadIdx.x == 0) number = 0;
    __syncthreads();
    for (u32 rest = __ballot_sync(EVERY, large); rest; rest &= rest - 1) {
        const int apart = __ffs(rest) - 1 - lane;
        const int theirs = __shfl_sync(EVERY, mine.number, __ffs(rest) - 1);
        for (int t = lane; t < theirs; t += LANES) {
            const Vector v = mine.at[t * mine.stride + apart];
            const i64 order = mine.order + (i64)t * mine.step + apart * PER_LANE;
#pragma unroll
            for (int i = 0; i < PER_LANE; ++i) {
                const i64 key = key_of(bits_of(v.word, i), order + i);
                if (key < bound) continue;
                const int to = atomicAdd(&number, 1);
                if (to < room) staged[to] = key;
            }
        }
    }
    __syncthreads();
    const int all = number;
    if (all > room) return select(mine, bound, k, keys, found);
    if (threadIdx.x == 0) base = atomicAdd(found, all);
    __syncthreads();
    for (int i = threadIdx.x; i < all; i += WARPS * LANES) keys[base + i] = staged[i];
}

// Add the block's counters to the histogram. Gives whether something lies outside of the table.
__device__ bool add_counts(const u32* table, u64* histogram) {
    bool outside = false;
    for (int i = threadIdx.x; i < TABLE + 2; i += WARPS * LANES) {
        u32 sum = 0;
#pragma unroll 16
        for (int copy = 0; copy < COPIES; ++copy)
            sum += table[i * COPIES + (copy + threadIdx.x) % COPIES];
        if (i == 0 || i == TABLE + 1)
            outside = sum > 0;
        else if (sum)
            atomicAdd(histogram + 1 + FIRST + i, (u64)sum);
    }
    return outside;
}

// Count what lies outside of the table: rare values one by one, zeros together.
__device__ void add_outside(const Share& mine, u64* histogram) {
    int zeros = 0;
    for (int t = 0; t < mine.number; ++t) {
        const Vector v = mine.at[t * mine.stride];
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            const u32 bits = bits_of(v.word, i), size = bits & 0x7fffffffu;
            const int place = place_of(bits, -28, TABLE);
            zeros += size == 0u;
            if (size == 0u || (place > 0 && place < TABLE + 1)) continue;
            const int to = size < 0x7f800000u ? 1 + place_of(bits, -40, BINS) : BINS + 3;
            atomicAdd(histogram + to, (u64)1);
        }
    }
    zeros = __reduce_add_sync(EVERY, zeros);
    if (zeros && threadIdx.x % LANES == 0) atomicAdd(histogram, (u64)zeros);
}

// Lay everything of every team side by side; a column of it is a channel: see `channel_of`.
__device__ __forceinline__ void lay_out(const Sums& a, WIDE* wide, float* extreme, int* reached) {
    const int team = threadIdx.x / ROW;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int to = team * BLOCK + i * ROW + threadIdx.x % ROW;
#pragma unroll
        for (int p = 0; p < 4; ++p) wide[p * TEAMS * BLOCK + to] = a.power[p][i];
        extreme[to] = __uint_as_float(bits_of(a.low, i));
        extreme[TEAMS * BLOCK + to] = __uint_as_float(bits_of(a.high, i));
        const u32 above = a.above[i / PER_WORD];
        reached[to] = PER_WORD == 1 ? above : above >> 16 * (i % PER_WORD) & 0xffffu;
    }
}

__device__ __forceinline__ int channel_of(int column) {
    return column % ROW * PER_LANE + column / ROW;
}

// x (rows, tokens, channels); lengths, ranks (rows): tokens that count, the document's place in
// order. Of this slot: floor (1): the size from which values are kept; centers (channels); sums
// (4, places, channels), ranges (2, places, channels), above (places, channels), of which a block of
// tokens owns the place of its number; missing (channels): not finite; histogram: zero, underflow,
// the bins, overflow, not finite; keys, found (1): appended, at most k of a block.
extern "C" __global__ void __launch_bounds__(WARPS * LANES, 1) one_read(
    const Vector* __restrict__ x, const i64* __restrict__ lengths, const i64* __restrict__ ranks,
    const float* __restrict__ floor_, const float* __restrict__ centers, double* __restrict__ sums,
    float* __restrict__ ranges, int* __restrict__ above, int* __restrict__ missing,
    u64* __restrict__ histogram, i64* __restrict__ keys, int* __restrict__ found, double threshold,
    int k, int tokens, int channels, int spans, int span, int places, int only_keys) {
    extern __shared__ __align__(16) unsigned char memory[];
    const int lane = threadIdx.x % ROW, team = threadIdx.x / ROW;
    const int place = blockIdx.x, row = place / spans, begin = (place % spans) * span + team;
    const int last = min(begin - team + span, tokens);
    const int channel = blockIdx.y * BLOCK + lane * PER_LANE;
    const bool inside = channel < channels;
    const i64 from = ((i64)row * tokens + begin) * channels + channel;
    const i64 stride = (i64)TEAMS * (channels / PER_LANE);
    Vector here[DEPTH];  // on its way while the lengths are, and while the counters are cleared
    const bool full = inside && begin + (DEPTH - 1) * TEAMS < last;
    if (full) load(here, x + from / PER_LANE, stride);
    const int end = min(last, (int)lengths[row]);
    const Share mine = {
        x + from / PER_LANE, inside ? max(0, (end - begin + TEAMS - 1) / TEAMS) : 0, stride,
        from + (ranks[row] - row) * tokens * channels, TEAMS * channels};
    const float floor = *floor_;
    WIDE center[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) center[i] = inside ? -(WIDE)centers[channel + i] : (WIDE)0;
    const u32 limit = below((float)threshold);

    Sums a;
    u32* table = (u32*)memory;
    if (!only_keys) {
        for (int i = threadIdx.x; i < (TABLE + 2) * COPIES / 4; i += WARPS * LANES)
            ((uint4*)memory)[i] = make_uint4(0, 0, 0, 0);
        __syncthreads();
        const u32 counters = (u32)__cvta_generic_to_shared(table) + threadIdx.x % LANES * 4;
        walk<false, true>(a, here, mine, center, limit, counters);
        WIDE all = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) all += a.power[1][i];
        if (!(all < (WIDE)INFINITE)) {  // an infinity or NaN shows in the sum: again without it
            if (full) load(here, mine.at, stride);
            walk<true, false>(a, here, mine, center, limit, 0);
        }
    } else {
        walk<true, false>(a, here, mine, center, limit, 0);
    }
    float largest = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const u32 low = bits_of(a.low, i), high = bits_of(a.high, i);
        largest = fmaxf(largest, fmaxf(__uint_as_float(high), -__uint_as_float(low)));
    }
    const bool large = mine.number > 0 && largest >= floor;

    if (!only_keys) {
        const int column = threadIdx.x % BLOCK, group = threadIdx.x / BLOCK;
        const int to = blockIdx.y * BLOCK + channel_of(column);
        const i64 out = (i64)place * channels + to, all_places = (i64)places * channels;
        const int side = group % 4;  // whose range this thread may have to widen
        const float before = side < 2 && to < channels ? ranges[side * all_places + out] : 0.0f;
        __syncthreads();
        if (__syncthreads_or(add_counts(table, histogram))) add_outside(mine, histogram);
        WIDE* wide = (WIDE*)memory;
        float* extreme = (float*)(wide + 4 * TEAMS * BLOCK);
        int* reached = (int*)(extreme + 2 * TEAMS * BLOCK);
        lay_out(a, wide, extreme, reached);
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (a.missing[i]) atomicAdd(missing + channel + i, a.missing[i]);
        __syncthreads();
        for (int job = group; to < channels && job < 7; job += WARPS * LANES / BLOCK) {
            if (job < 4) {
                double sum = 0;
#pragma unroll 16
                for (int t = 0; t < TEAMS; ++t) sum += wide[(job * TEAMS + t) * BLOCK + column];
                atomicAdd(sums + job * all_places + out, sum);  // its owner need not wait for it
            } else if (job < 6) {
                const float sign = side ? -1.0f : 1.0f;
                float bound = sign * before;
#pragma unroll 16
                for (int t = 0; t < TEAMS; ++t)
                    bound = fminf(bound, sign * extreme[(side * TEAMS + t) * BLOCK + column]);
                ranges[side * all_places + out] = sign * bound;
            } else {
                int number = 0;
#pragma unroll 16
                for (int t = 0; t < TEAMS; ++t) number += reached[t * BLOCK + column];
                above[out] = number;
            }
        }
    }
    if (__syncthreads_or(large)) append(mine, large, floor, k, keys, found, (i64*)memory);
}
