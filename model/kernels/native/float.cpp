#include "doors.h"

template struct dyno::Doors<float>;
