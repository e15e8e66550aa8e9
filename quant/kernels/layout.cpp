#include "quant/kernels/layout.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

namespace quant::kernels {

namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Where a bit field of a code lies: word of the row within the tile, and shift.
struct Place {
  int64_t word, shift;
};

// Field of `width` bits of column j of a block that starts at word `first`.
Place place(const Layout& layout, int64_t first, int64_t j, int64_t width) {
  if (layout.window_bits > 0) return {first, 30 - 2 * j};
  const int64_t per_word = 32 / width, in_word = j % per_word;
  return {first + j / per_word, in_word % 4 * 8 + in_word / 4 * width};
}

int64_t index(const Layout& layout, int64_t row, int64_t word) {
  return layout.first_word() + row / kTileRows * layout.tile_words() + word * kTileRows + row % kTileRows;
}

}  // namespace

Layout Layout::of(int64_t rows, int64_t columns, int64_t bits, int64_t group_size, int64_t window_bits) {
  assert(window_bits == 0 || fits_windows(rows, columns, bits, group_size));
  assert(fits(bits) && rows > 0 && columns > 0);
  Layout layout{.rows = rows, .columns = columns, .bits = bits, .window_bits = window_bits};
  layout.group_size = group_size < 1 ? columns : std::min(group_size, columns);
  const int64_t pieces = (layout.group_size + kLongestSpan - 1) / kLongestSpan;
  const int64_t whole = layout.has_input_groups() ? kInputGroup : layout.block_columns();
  layout.span = round_up((layout.group_size + pieces - 1) / pieces, whole);
  layout.spans_per_group = pieces;
  layout.groups = (columns + layout.group_size - 1) / layout.group_size;
  return layout;
}

void fill_codes(const Layout& layout, const uint8_t* canonical, uint32_t* words) {
  const int64_t bits = layout.bits, width = (layout.columns * bits + 7) / 8;
  const int64_t low = bits == 3 ? 2 : bits;
  std::fill(words, words + layout.words(), 0);
  for (int64_t row = 0; row < layout.rows; ++row) {
    const uint8_t* from = canonical + row * width;
    for (int64_t column = 0; column < layout.columns; ++column) {
      const int64_t bit = column * bits, byte = bit / 8;
      const uint32_t next = byte + 1 < width ? from[byte + 1] : 0;
      const uint32_t code = (from[byte] | next << 8) >> bit % 8 & ((1u << bits) - 1);
      const int64_t at = layout.position(column), j = at % layout.block_columns();
      const int64_t first = at / layout.block_columns() * layout.block_words();
      const Place lower = place(layout, first, j, low);
      words[index(layout, row, lower.word)] |= (code & ((1u << low) - 1)) << lower.shift;
      if (bits != 3) continue;
      const Place third = place(layout, first + 2, j, 1);
      words[index(layout, row, third.word)] |= (code >> 2) << third.shift;
    }
  }
}

void read_codes(const Layout& layout, const uint32_t* words, int64_t row, uint8_t* codes) {
  const int64_t low = layout.bits == 3 ? 2 : layout.bits, block = layout.block_columns();
  Place lower[32], third[32];  // of the columns of a block
  for (int64_t j = 0; j < block; ++j) {
    lower[j] = place(layout, 0, j, low);
    third[j] = place(layout, 2, j, 1);
  }
  const uint32_t mask = (1u << low) - 1;
  for (int64_t g = 0, column = 0; g < layout.groups; ++g) {
    const int64_t end = std::min(layout.columns, column + layout.group_size);
    const uint32_t* from = words + index(layout, row, layout.position(column) / block * layout.block_words());
    for (; column < end; from += layout.block_words() * kTileRows) {
      const int64_t n = std::min(block, end - column);
      for (int64_t j = 0; j < n; ++j) {
        uint32_t code = from[lower[j].word * kTileRows] >> lower[j].shift & mask;
        if (layout.bits == 3) code |= (from[third[j].word * kTileRows] >> third[j].shift & 1) << 2;
        codes[column + j] = static_cast<uint8_t>(code);
      }
      column += n;
    }
  }
}

uint32_t code_at(const Layout& layout, const uint32_t* words, int64_t row, int64_t column) {
  const int64_t low = layout.bits == 3 ? 2 : layout.bits, at = layout.position(column), j = at % layout.block_columns();
  const int64_t first = at / layout.block_columns() * layout.block_words();
  const Place lower = place(layout, first, j, low);
  const uint32_t code = words[index(layout, row, lower.word)] >> lower.shift & ((1u << low) - 1);
  if (layout.bits != 3) return code;
  const Place third = place(layout, first + 2, j, 1);
  return code | (words[index(layout, row, third.word)] >> third.shift & 1) << 2;
}

// ---- scales and zero points ----

uint16_t to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 2^16 and more: infinity
  if (magnitude >= 0x38800000) return static_cast<uint16_t>(sign | ((magnitude - 0x38000000) >> 13));
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::fabs(value) * 16777216.0f));  // steps of 2^−24
}

float from_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | fraction << 13);
  const float magnitude = static_cast<float>(fraction) / 16777216.0f;
  return sign != 0 ? -magnitude : magnitude;
}

bool fits_half(const float* values, int64_t n) {
  return std::all_of(values, values + n, [](float v) { return from_half(to_half(v)) == v; });
}

int64_t parameter_values(const Layout& layout, bool has_zeros) {
  return layout.tiles() * layout.spans() * (has_zeros ? 2 : 1) * kTileRows;
}

void fill_parameters(const Layout& layout, const float* scale, const float* zero, bool is_half, void* values) {
  const int64_t arrays = zero != nullptr ? 2 : 1;
  const auto put = [&](int64_t i, float value) {
    if (is_half) {
      static_cast<uint16_t*>(values)[i] = to_half(value);
    } else {
      static_cast<float*>(values)[i] = value;
    }
  };
  for (int64_t tile = 0; tile < layout.tiles(); ++tile) {
    for (int64_t s = 0; s < layout.spans(); ++s) {
      for (int64_t lane = 0; lane < kTileRows; ++lane) {
        const int64_t row = tile * kTileRows + lane, from = row * layout.groups + layout.group_of_span(s);
        const int64_t to = (tile * layout.spans() + s) * arrays * kTileRows + lane;
        const bool is_row = row < layout.rows;
        put(to, is_row ? scale[from] : 0);
        if (zero != nullptr) put(to + kTileRows, is_row ? zero[from] : 0);
      }
    }
  }
}

}  // namespace quant::kernels
