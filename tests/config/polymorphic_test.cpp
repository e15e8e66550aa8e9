// Values of derived classes behind their base.
#include "core/config/polymorphic.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace core {
namespace {

struct Shape {
  virtual ~Shape() = default;
  virtual int area() const = 0;
  virtual void grow() = 0;
};

struct Square : Shape {
  int side = 2;
  int area() const override { return side * side; }
  void grow() override { ++side; }
};

TEST(Polymorphic, CopiesAreIndependent) {
  Polymorphic<Shape> one = Square{};
  const Polymorphic<Shape> copy = one;
  Polymorphic<Shape> assigned = Square{};
  assigned->grow();
  assigned = one;
  const std::shared_ptr<const Shape> shared = one.share();
  one->grow();
  EXPECT_EQ(one->area(), 9);
  EXPECT_EQ(copy->area(), 4);
  EXPECT_EQ((*assigned).area(), 4);
  EXPECT_EQ(shared->area(), 4);
}

TEST(Polymorphic, IsCopiedWithTheMapThatHoldsIt) {
  std::map<std::string, Polymorphic<Shape>> shapes{{"square", Square{}}};
  const auto copy = shapes;
  shapes.at("square")->grow();
  EXPECT_EQ(copy.at("square")->area(), 4);
}

TEST(Polymorphic, MovesWithoutACopy) {
  Polymorphic<Shape> one = Square{};
  const Shape* held = &*one;
  const Polymorphic<Shape> other = std::move(one);
  EXPECT_EQ(&*other, held);
}

}  // namespace
}  // namespace core
