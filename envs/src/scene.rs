//! Drawings as data: an environment writes shapes into a [`Scene`]; the app, the PNG/GIF export and the tests paint it.

/// A point in world coordinates: metres, y up.
pub type Point = [f32; 2];

/// What a shape stands for. Colours belong to the painter's theme, not to the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ink {
    /// Ground line, rail, hill.
    Ground,
    /// The moving body the agent controls.
    Body,
    /// A second, lighter part of the body (cart, far link).
    BodyLight,
    /// Joints and wheels.
    Joint,
    /// Where the agent should get to.
    Target,
    /// The action taken: arrows, arcs; painted faintly.
    Action,
    /// Where the tracked point has been; painted faintly.
    Trail,
}

/// One filled or stroked shape. Lengths are in metres.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A filled disc.
    Circle {
        /// Centre.
        center: Point,
        /// Radius.
        radius: f32,
        /// Colour role.
        ink: Ink,
    },
    /// A thick line with round ends.
    Capsule {
        /// One end.
        from: Point,
        /// Other end.
        to: Point,
        /// Half the thickness.
        radius: f32,
        /// Colour role.
        ink: Ink,
    },
    /// A filled convex polygon with corners rounded by `rounding`.
    Polygon {
        /// Corners, in order.
        points: Vec<Point>,
        /// Radius of the corners.
        rounding: f32,
        /// Colour role.
        ink: Ink,
    },
    /// What lies below a line: hills.
    Area {
        /// The line, from left to right.
        surface: Vec<Point>,
        /// Down to this height.
        bottom: f32,
        /// Colour role.
        ink: Ink,
    },
    /// An open line through points, with round joints.
    Polyline {
        /// Points, in order.
        points: Vec<Point>,
        /// Half the thickness.
        radius: f32,
        /// Colour role.
        ink: Ink,
    },
}

/// A drawing: the part of the world to show, and the shapes from back to front.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scene {
    /// Lower left corner of the view.
    pub min: Point,
    /// Upper right corner of the view.
    pub max: Point,
    /// Shapes, back to front.
    pub shapes: Vec<Shape>,
    /// The point whose path the painter may show as a motion trail (pole tip, car, hand).
    pub tracked: Option<Point>,
}

impl Scene {
    /// Empties the drawing and sets what part of the world is shown.
    pub fn clear(&mut self, min: Point, max: Point) {
        self.min = min;
        self.max = max;
        self.shapes.clear();
        self.tracked = None;
    }
}
