#include "quant/transform.h"

#include "core/error.h"

// One line per transform: X(name) stands for transforms/name.cpp, which defines make_name_transform().
#define TRANSFORMS(X) X(awq) X(smoothquant)

namespace quant {

#define DECLARE(name) core::Polymorphic<Transform> make_##name##_transform();
TRANSFORMS(DECLARE)
#undef DECLARE

Transforms make_transforms() {
#define ENTRY(name) {#name, make_##name##_transform()},
  return {TRANSFORMS(ENTRY)};
#undef ENTRY
}

void TransformItem::keys(core::Keys& k) {
  for (auto& [name, transform] : choices) k.section(name, *transform, transform->summary()).only_if_given();
}

void TransformItem::check() const {
  std::vector<std::string> names;
  for (const auto& [name, transform] : choices) {
    if (given(name)) names.push_back(name);
  }
  core::require(names.size() == 1, "{}: an item names one transform, not {}. Write e.g. - awq: {{}}.", where(""),
                names.size());
}

NamedTransform TransformItem::chosen() const {
  for (const auto& [name, transform] : choices) {
    if (given(name)) return {name, transform.share()};
  }
  TORCH_CHECK(false, "an item without a transform");
}

}  // namespace quant
