/* The network as others see it. Written by Haversack. */
#include "{name}/model.h"
