// How codes lie for the packed products: rows interleaved, so that a lane of a vector is an output row.
//
// 16 rows are a tile. Their codes are words of 32 bits, one per row, 16 words of one place after the other (64 bytes).
// A word holds 32 / b columns: byte c has those with column mod 4 = c, four neighbouring columns per plane of b bits,
// so that (word >> p b) & mask are the bytes of columns 4 p … 4 p + 3: the operand of an 8-bit dot product. 3-bit codes
// are two words of 2 bits (32 columns) and then one word with their third bits. Codes that are decoded with those
// before them (2 bits) lie one after the other instead, the first in a word's highest bits.
//
// Columns are cut into spans of at most 4096 that share a group, padded with code 0 to whole words; inputs are padded
// with zeros alike (inputs.h), rows to whole tiles. The last group may be shorter than the others.
#pragma once

#include <cstdint>

namespace quant::kernels {

constexpr int64_t kTileRows = 16;
constexpr int64_t kLongestSpan = 4096;
constexpr int64_t kInputGroup = 32;  // whole blocks of codes of every width

struct Layout {
  int64_t rows = 0, columns = 0, bits = 0;  // bits: 1, 2, 3, 4 or 8
  int64_t group_size = 0;                   // S, columns
  int64_t span = 0;                         // columns of a span, padded to whole blocks
  int64_t spans_per_group = 0, groups = 0;
  int64_t window_bits = 0;  // L of codes that are decoded with those before them; 0: each by itself

  // group_size: −1 for the row. What is no width of a code (`fits`) is a bug.
  static Layout of(int64_t rows, int64_t columns, int64_t bits, int64_t group_size, int64_t window_bits = 0);
  // Windows lie in tiles of 16 × 16 weights, of 2 bits each.
  static bool fits_windows(int64_t rows, int64_t columns, int64_t bits, int64_t group_size) {
    return bits == 2 && rows % kTileRows == 0 && columns % kTileRows == 0 &&
           (group_size < 1 || group_size % kTileRows == 0);
  }
  static bool fits(int64_t bits) { return (bits >= 1 && bits <= 4) || bits == 8; }

  bool operator==(const Layout&) const = default;

  int64_t block_columns() const { return bits == 3 ? 32 : 32 / bits; }  // columns that words hold together
  int64_t block_words() const { return bits == 3 ? 3 : 1; }             // per row
  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  int64_t spans() const { return groups * spans_per_group; }
  int64_t padded_columns() const { return spans() * span; }
  int64_t span_words() const { return span / block_columns() * block_words() * kTileRows; }  // of 16 rows
  int64_t tile_words() const { return spans() * span_words(); }
  int64_t first_word() const { return window_bits > 0 ? kTileRows : 0; }  // zeros, so that a word has one before it
  int64_t words() const { return first_word() + tiles() * tile_words(); }
  // Neighbouring columns of an input that are rounded together: 32, where groups of weights are whole multiples of
  // that, else all of a span, which then share the scale of the whole input.
  bool has_input_groups() const { return columns % kInputGroup == 0 && group_size % kInputGroup == 0; }
  int64_t input_group() const { return has_input_groups() ? kInputGroup : span; }
  int64_t group_of_span(int64_t s) const { return s / spans_per_group; }
  int64_t position(int64_t column) const {  // among the padded columns
    return column / group_size * spans_per_group * span + column % group_size;
  }
};

// canonical: packed codes as core::Codes keeps them, [rows, ceil(columns · bits / 8)]. words: [layout.words()].
void fill_codes(const Layout& layout, const uint8_t* canonical, uint32_t* words);

// The codes that fill_codes put there, of one row. codes: [columns].
void read_codes(const Layout& layout, const uint32_t* words, int64_t row, uint8_t* codes);

// One of them; slow: for the reference.
uint32_t code_at(const Layout& layout, const uint32_t* words, int64_t row, int64_t column);

// Scales and zero points of one set: for every tile and span 16 scales, then (unless the zero point is one constant)
// 16 zero points. Level of code k is s (k − z). In float16 if that holds every value exactly, else in float32.
struct Parameters {
  const void* values = nullptr;
  bool is_half = false, has_zeros = false;
  float constant_zero = 0;       // without zeros
  const float* table = nullptr;  // [2^bits] levels: the level of code k is s table[k]; no zero point then;
                                 // of windows [2^window_bits]

  int64_t span_values() const { return has_zeros ? 2 * kTileRows : kTileRows; }
};

int64_t parameter_values(const Layout& layout, bool has_zeros);  // elements of `values`
bool fits_half(const float* values, int64_t n);
// scale, zero: [rows, groups] float32; zero may be null. values: [parameter_values()] of uint16 or float.
void fill_parameters(const Layout& layout, const float* scale, const float* zero, bool is_half, void* values);

uint16_t to_half(float value);  // of a value that float16 holds; otherwise the nearest towards zero
float from_half(uint16_t bits);

}  // namespace quant::kernels
